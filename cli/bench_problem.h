// cli/bench_problem.h -- the tensors of a forward of one rank, on its device, and how benchmarks
// name strategies.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench.h"
#include "device.h"
#include "routing.h"
#include "rows.h"
#include "switchyard/layer.h"
#include "switchyard/measure.h"

namespace switchyard::cli {

// Above the roundings of activations and outputs to bf16 (2.5e-3), below any wrong row.
inline constexpr double kMaxBenchError = 4e-3;

struct BenchProblem {
  // Random rows and routing of the kind that make_routing knows, other ones for every group.
  BenchProblem(const MoeConfig& config, Backend& backend, const std::string& kind,
               int64_t num_tokens, int group = 0);

  ForwardArgs args() const {
    return {.output = output.view(), .hidden = hidden.view(), .max_tokens = tokens};
  }
  ForwardArgs args_given_routing() const {
    ForwardArgs a = args();
    a.ids = ids.view(), a.weights = router_weights.view();
    return a;
  }

  // NaN, so that no result of another strategy is taken for this one's.
  void poison_output(Backend& backend, CUstream_st* stream = nullptr) const;

  int64_t tokens;
  Rows host_hidden;
  Routing routing;
  DeviceBuffer hidden, output, ids, router_weights;
};

// Of the layer on its rank, on the backend's device.
LayerWeights bench_weights(const BenchArguments& arguments, Backend& backend, int num_ranks = 1,
                           int rank = 0);

// Why a result is not timed.
std::string wrong_result(double rel_error);

// The strategies of a list "A,B"; of "all" the three layouts.
std::vector<std::string> bench_strategies(const std::string& wanted);

// What the JSON of every benchmark of layers on GPUs begins with: layer, device, rates, run.
nlohmann::json result_head(const BenchArguments& arguments, const MoeConfig& config,
                           const DeviceRates& rates);
// op, us, us_min, us_max, bytes, flops, eager
nlohmann::json to_json(const OpTime& time);

}  // namespace switchyard::cli
