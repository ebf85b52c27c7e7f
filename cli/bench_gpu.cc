// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/bench_gpu.cc -- what benchmarks of layers on GPUs share.
#include "bench.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <set>
#include <sstream>

#include "commands.h"
#include "switchyard/oracle.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

constexpr double kMaxBytes = 1.5e9;  // of experts that are copied to the host
constexpr int64_t kMaxTokens = 8;

// As many as the bytes allow, spread evenly from the first to the last.
std::vector<int64_t> pick_tokens(const MoeConfig& c, int64_t num_tokens) {
  const auto bytes =
      static_cast<double>(c.top_k * (c.w1_rows() + c.intermediate) * c.routed_hidden() * 2);
  const int64_t count = std::min(
      num_tokens, std::clamp<int64_t>(static_cast<int64_t>(kMaxBytes / bytes), 1, kMaxTokens));
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(count == 1 ? 0 : i * (num_tokens - 1) / (count - 1));
  return tokens;
}

// The picked tokens' experts, renumbered without gaps, in memory of the host.
class HostExperts {
 public:
  HostExperts(std::span<const PlacedWeights> ranks, const std::set<int32_t>& used)
      : ranks_(ranks), used_(used) {
    const LayerWeights& first = *ranks.front().weights;
    weights.experts = {first.experts.order, take(&ExpertWeights::w1), take(&ExpertWeights::w2),
                       take(&ExpertWeights::b1), take(&ExpertWeights::b2)};
    weights.experts.w1_scales = take(&ExpertWeights::w1_scales);
    weights.experts.w2_scales = take(&ExpertWeights::w2_scales);
    weights.shared = {first.shared.order, take(first.shared.w1), take(first.shared.w2),
                      take(first.shared.gate)};
    weights.path = {take(first.path.input_norm), take(first.path.down),
                    take(first.path.output_norm), take(first.path.up)};
  }
  LayerWeights weights;  // views of what this owns; no router

 private:
  struct Slice {
    ConstTensor values;
    Backend* backend;
  };

  ConstTensor take(ConstTensor ExpertWeights::*which) {
    return take_experts([which](const ExpertWeights& e) { return e.*which; });
  }
  BlockScales take(BlockScales ExpertWeights::*which) {
    return {take_experts([which](const ExpertWeights& e) { return (e.*which).values; }),
            (ranks_.front().weights->experts.*which).block};
  }
  template <class View>
  ConstTensor take_experts(View view) {
    const ConstTensor first = view(ranks_.front().weights->experts);
    if (!first.present()) return {};
    std::vector<Slice> slices;
    slices.reserve(used_.size());
    for (const int32_t e : used_) {
      const auto& rank = ranks_[e / first.dim(0)];
      slices.push_back({view(rank.weights->experts).rows(e % first.dim(0), 1), rank.backend});
    }
    return join(slices, static_cast<int64_t>(used_.size()));
  }
  ConstTensor take(ConstTensor t) {
    return t.present() ? join({{t, ranks_.front().backend}}, t.dim(0)) : ConstTensor{};
  }
  ConstTensor join(const std::vector<Slice>& slices, int64_t rows) {
    const ConstTensor& first = slices.front().values;
    const auto bytes = static_cast<size_t>(first.bytes());
    memory_.push_back(aligned_memory(bytes * slices.size()));
    auto* to = static_cast<std::byte*>(memory_.back().get());
    for (size_t i = 0; i < slices.size(); ++i)
      copy_to_host(*slices[i].backend, to + i * bytes, slices[i].values);
    Tensor joined(to, first.dtype, first.shape);
    joined.shape = joined.rows(0, rows).shape;
    return joined;
  }

  std::span<const PlacedWeights> ranks_;
  const std::set<int32_t>& used_;
  std::vector<std::shared_ptr<void>> memory_;
};

// The layer of the renumbered experts; routing is given, so the gate's rules are of no concern.
MoeConfig config_of(const MoeConfig& whole, int64_t num_experts) {
  MoeConfig c = whole;
  c.num_experts = num_experts;
  c.gate = {};
  c.gate.scoring = whole.gate.scoring;  // what puts the weight on the input asks for it
  c.router_bias = c.router_f32 = false;
  return c;
}

}  // namespace

BenchProblem::BenchProblem(const MoeConfig& config, Backend& backend, const std::string& kind,
                           int64_t num_tokens, int group, DeviceKind device)
    : tokens(num_tokens),
      host_hidden(random_rows(num_tokens, config.hidden, 7 + 100 * static_cast<uint64_t>(group))),
      routing(make_routing(kind, num_tokens, config.num_experts, config.top_k,
                           11 + 100 * static_cast<uint64_t>(group))),
      hidden(backend, device, ConstTensor(host_hidden.view())),
      output(backend, device, DType::Bf16, {num_tokens, config.hidden}),
      ids(backend, device, ConstTensor(routing.ids.data(), {num_tokens, config.top_k})),
      router_weights(backend, device,
                     ConstTensor(routing.weights.data(), {num_tokens, config.top_k})) {}

void BenchProblem::poison_output(Backend& backend, CUstream_st* stream) const {
  const std::vector<uint16_t> nan(output.view().count(), 0x7fc1);
  copy_to_device(backend, output.view(), nan.data(), stream);
}

LayerWeights bench_weights(const BenchArguments& a, Backend& backend, int num_ranks, int rank) {
  const MoeConfig config = a.source.config();
  const LayerOptions options = a.run.layer_options(0);
  LayerWeights weights =
      options.device == DeviceKind::Cuda && a.source.has_random_weights()
          ? random_device_weights(config, backend, 0, num_ranks, rank, a.source.expert_format())
          : place_weights(a.source.weights(num_ranks, rank, {}), config, num_ranks, options,
                          backend);
  if (a.routed_only) weights.shared = {};
  return weights;
}

SpotCheck::SpotCheck(const MoeConfig& config, std::span<const PlacedWeights> ranks,
                     const Rows& hidden, const Routing& routing, bool shows)
    : tokens_(pick_tokens(config, hidden.num_rows())) {
  const int64_t h = config.hidden, k = config.top_k;
  std::set<int32_t> used;
  for (const int64_t t : tokens_)
    used.insert(routing.ids.begin() + t * k, routing.ids.begin() + (t + 1) * k);
  const HostExperts experts(ranks, used);
  const MoeConfig compact = config_of(config, static_cast<int64_t>(used.size()));

  expected_.resize(tokens_.size() * static_cast<size_t>(h));
  const auto compute = [&](size_t i) {
    const int64_t t = tokens_[i];
    std::vector<int32_t> ids;
    for (int64_t j = 0; j < k; ++j) {
      const auto at = used.find(routing.ids[t * k + j]);
      ids.push_back(static_cast<int32_t>(std::distance(used.begin(), at)));
    }
    oracle_forward(Tensor(expected_.data() + static_cast<int64_t>(i) * h, {1, h}), compact,
                   experts.weights, hidden.view().rows(t, 1), ConstTensor(ids.data(), {1, k}),
                   ConstTensor(routing.weights.data() + t * k, {1, k}));
  };
  std::vector<std::future<void>> all;
  for (size_t i = 0; i < tokens_.size(); ++i)
    all.push_back(std::async(std::launch::async, compute, i));
  const auto progress = shows ? progress_on_terminal("checking in float64") : nullptr;
  for (size_t i = 0; i < all.size(); ++i) {
    if (progress) progress(static_cast<int64_t>(i), static_cast<int64_t>(all.size()));
    all[i].get();
  }
  if (progress) progress(1, 1);
}

double SpotCheck::rel_error(ConstTensor output, Backend& backend) const {
  const auto n = static_cast<int64_t>(tokens_.size());
  const int64_t h = output.dim(1);
  Rows actual(n, h);
  for (int64_t i = 0; i < n; ++i)
    copy_to_host(backend, actual.view().rows(i, 1).data, output.rows(tokens_[i], 1));
  return compare(actual.view(), ConstTensor(expected_.data(), {n, h})).rel_error;
}

std::vector<std::string> bench_strategies(const std::string& wanted) {
  if (wanted == "all") return {"contiguous", "masked", "hybrid"};
  std::vector<std::string> names;
  std::istringstream list(wanted);
  for (std::string name; std::getline(list, name, ',');) names.push_back(name);
  return names;
}

double worst_error(std::span<const double> rel_errors) {
  double worst = 0;
  for (const double error : rel_errors)
    if (std::isnan(error) || error > worst) worst = error;  // nothing is above NaN
  return worst;
}

std::string problem_of_error(double rel_error, DType experts) {
  const double most = experts == DType::F8E4m3 ? kMaxF8BenchError : kMaxBenchError;
  if (rel_error <= most) return "";
  return fmt::format("result: rel_error={:.2e}, need at most {:.0e} against float64. Not timed.",
                     rel_error, most);
}

bool GpuBench::is_close(Check& check) const {
  check.problem = problem_of_error(check.rel_error, a_.source.expert_format().dtype);
  check.failed = !check.problem.empty();
  return !check.failed;
}

std::string GpuBench::product_rates() const {
  std::string text = fmt::format("cuBLAS {:.0f} TFLOP/s", rates_.gemm_tflops);
  if (a_.source.expert_format().dtype != DType::F8E4m3) return text;
  return text + (rates_.f8_gemm_tflops > 0 ? fmt::format(", of fp8 {:.0f}", rates_.f8_gemm_tflops)
                                           : ", of fp8 not known, twice that counts");
}

nlohmann::json GpuBench::json_of(const Row& row) {
  const OpTime& t = row.time;
  return {{"op", t.op},
          {"us", t.us},
          {"us_min", t.min_us},
          {"us_max", t.max_us},
          {"bytes", t.bytes},
          {"flops", t.flops},
          {"eager", t.eager},
          {"kernels", t.num_kernels},
          {"operations", t.num_operations},
          {"tokens", row.tokens},
          {"strategy", row.strategy},
          {"layout", row.layout},
          {"floor_us", row.floor_us}};
}

int GpuBench::print() const {
  nlohmann::json json = {{"layer", a_.source.name()},
                         {"config",
                          {{"hidden", config_.hidden},
                           {"intermediate", config_.intermediate},
                           {"experts", config_.num_experts},
                           {"top_k", config_.top_k},
                           {"shared_intermediate", config_.shared.intermediate}}},
                         {"device", rates_.name},
                         {"driver", rates_.driver},
                         {"copy_gbps", rates_.copy_gbps},
                         {"read_gbps", rates_.read_gbps},
                         {"gemm_tflops", rates_.gemm_tflops},
                         {"f8_gemm_tflops", rates_.f8_gemm_tflops},
                         {"experts", dtype_name(a_.source.expert_format().dtype)},
                         {"sm_clock_mhz", rates_.sm_clock_mhz},
                         {"date", utc_now()},
                         {"commit", a_.commit},
                         {"version", SWITCHYARD_VERSION},
                         {"routing", a_.routing},
                         {"repeat", a_.repeat},
                         {"l2", "cold"}};
  json.update(results());
  show(a_, json, [this] {
    print_table();
    for (const Check& c : checks_)
      if (!c.problem.empty())
        say("{} tokens, {}: {} {}\n", c.tokens, c.strategy, c.failed ? "FAILED," : "left out,",
            c.problem);
  });
  return std::ranges::any_of(checks_, &Check::failed) ? kFailed : kGood;
}

}  // namespace switchyard::cli
