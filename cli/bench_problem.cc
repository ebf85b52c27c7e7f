// cli/bench_problem.cc
#include "bench_problem.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <sstream>

namespace switchyard::cli {
BenchProblem::BenchProblem(const MoeConfig& config, Backend& backend, const std::string& kind,
                           int64_t num_tokens, int group)
    : tokens(num_tokens),
      host_hidden(random_rows(num_tokens, config.hidden, 7 + 100 * static_cast<uint64_t>(group))),
      routing(make_routing(kind, num_tokens, config.num_experts, config.top_k,
                           11 + 100 * static_cast<uint64_t>(group))),
      hidden(backend, DeviceKind::Cuda, ConstTensor(host_hidden.view())),
      output(backend, DeviceKind::Cuda, DType::Bf16, {num_tokens, config.hidden}),
      ids(backend, DeviceKind::Cuda, ConstTensor(routing.ids.data(), {num_tokens, config.top_k})),
      router_weights(backend, DeviceKind::Cuda,
                     ConstTensor(routing.weights.data(), {num_tokens, config.top_k})) {}

void BenchProblem::poison_output(Backend& backend, CUstream_st* stream) const {
  const std::vector<uint16_t> nan(output.view().count(), 0x7fc1);
  copy_to_device(backend, output.view(), nan.data(), stream);
}

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

nlohmann::json result_head(const BenchArguments& a, const MoeConfig& config,
                           const DeviceRates& rates) {
  return {{"layer", a.source.name()},
          {"config",
           {{"hidden", config.hidden},
            {"intermediate", config.intermediate},
            {"experts", config.num_experts},
            {"top_k", config.top_k},
            {"shared_intermediate", config.shared.intermediate}}},
          {"device", rates.name},
          {"driver", rates.driver},
          {"copy_gbps", rates.copy_gbps},
          {"read_gbps", rates.read_gbps},
          {"gemm_tflops", rates.gemm_tflops},
          {"sm_clock_mhz", rates.sm_clock_mhz},
          {"date", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
          {"commit", a.commit},
          {"version", SWITCHYARD_VERSION},
          {"routing", a.routing},
          {"repeat", a.repeat},
          {"l2", "cold"}};
}

nlohmann::json to_json(const OpTime& time) {
  return {{"op", time.op},         {"us", time.us},       {"us_min", time.min_us},
          {"us_max", time.max_us}, {"bytes", time.bytes}, {"flops", time.flops},
          {"eager", time.eager}};
}

}  // namespace switchyard::cli
