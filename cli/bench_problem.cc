// cli/bench_problem.cc
#include "bench_problem.h"

#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <sstream>

#include "switchyard/measure.h"

namespace switchyard::cli {

BenchProblem::BenchProblem(const MoeConfig& config, Backend& backend, const std::string& kind,
                           int64_t num_tokens, int rank)
    : tokens(num_tokens),
      host_hidden(random_rows(num_tokens, config.hidden, 7 + 100 * static_cast<uint64_t>(rank))),
      routing(make_routing(kind, num_tokens, config.num_experts, config.top_k,
                           11 + 100 * static_cast<uint64_t>(rank))),
      hidden(backend, DeviceKind::Cuda, ConstTensor(host_hidden.view())),
      output(backend, DeviceKind::Cuda, DType::Bf16, {num_tokens, config.hidden}),
      ids(backend, DeviceKind::Cuda, ConstTensor(routing.ids.data(), {num_tokens, config.top_k})),
      router_weights(backend, DeviceKind::Cuda,
                     ConstTensor(routing.weights.data(), {num_tokens, config.top_k})) {}

LayerWeights bench_weights(const BenchArguments& a, Backend& backend, int num_ranks, int rank) {
  const MoeConfig config = a.source.config();
  LayerWeights weights =
      a.source.stored_format() == "random"
          ? random_device_weights(config, backend, 0, num_ranks, rank)
          : to_device(a.source.weights(num_ranks, rank, {}), config, num_ranks, backend);
  if (a.routed_only) weights.shared = {};
  return weights;
}

std::string wrong_result(double rel_error) {
  return fmt::format("result: rel_error={:.2e}, need at most {:.0e} against float64. Not timed.",
                     rel_error, kMaxBenchError);
}

std::vector<std::string> bench_strategies(const std::string& wanted) {
  if (wanted == "all") return {"contiguous", "masked", "hybrid"};
  std::vector<std::string> names;
  std::istringstream list(wanted);
  for (std::string name; std::getline(list, name, ',');) names.push_back(name);
  return names;
}

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  char text[32];
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace switchyard::cli
