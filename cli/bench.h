// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/bench.h -- what `switchyard bench` was asked, its forms by device, and what those on GPUs share:
// the tensors of a forward of one rank, on its device, and what is said of a layer.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "device.h"
#include "layer_options.h"
#include "routing.h"
#include "switchyard/layer.h"
#include "switchyard/measure.h"

namespace switchyard::cli {

struct BenchArguments {
  const CLI::App* command = nullptr;
  LayerSource source;
  RunOptions run;
  std::vector<int64_t> tokens;  // empty: the device's usual ones
  int repeat = 20;
  bool linear_attention = false;   // its steps in place of a layer
  std::vector<int64_t> batch;      // of them; empty: the usual ones
  std::string transport = "auto";  // or "threads": whatever a launcher said
  bool json = false;
  std::string report;  // a page of the result, too; empty: none
  // CUDA only
  std::string routing = "random";
  std::string commit;
  bool routed_only = false;
  bool tune = false;  // configurations of grouped GEMMs in place of layers
  std::string out;    // of tune: a table of what is better than the rule; empty: none
};

std::string utc_now();  // "2026-11-28T05:41:24Z"

// Prints what --json prints, or else the table; then writes the page of --report.
void show(const BenchArguments& arguments, const nlohmann::json& result,
          const std::function<void()>& print_table);

// Prints a table or one JSON object; the exit code.
int bench_on_cpu(const BenchArguments& arguments);
int bench_on_cuda(const BenchArguments& arguments);
// Several ranks on CUDA.
int bench_over_ranks(const BenchArguments& arguments);
int bench_linear_attention(const BenchArguments& arguments);
// The experts' grouped GEMMs in every configuration.
int tune_gemms(const BenchArguments& arguments);

// ---- layers that are compared with float64, then timed

// Above the roundings of activations and outputs to bf16 (2.5e-3), below any wrong row.
inline constexpr double kMaxBenchError = 4e-3;
// Of experts in fp8 against float64 of rows that are not quantised. Q128 moves a row by 2.6 % of its
// length, so gate and up by as much each, their product by 3.7 %; Q128 of that, once more 2.6 %, makes
// 4.5 %. A scale that belongs to another block moves what it scales by a third.
inline constexpr double kMaxF8BenchError = 6e-2;
// Of all ranks; NaN of any is NaN.
double worst_error(std::span<const double> rel_errors);
// Why a result of such experts is not timed; empty where it is close to float64.
std::string problem_of_error(double rel_error, DType experts);

struct BenchProblem {
  // Random rows and routing of the kind that make_routing knows, other ones for every group.
  BenchProblem(const MoeConfig& config, Backend& backend, const std::string& kind,
               int64_t num_tokens, int group = 0, DeviceKind device = DeviceKind::Cuda);

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

// ---- a few tokens of a layer in float64: a fast wrong answer is no result

// The weights of one rank, and where they are.
struct PlacedWeights {
  const LayerWeights* weights;
  Backend* backend;
};

class SpotCheck {
 public:
  // Copies the experts of a few tokens from the devices of all ranks, in order of rank, and
  // computes these tokens on the host, in about a second. Of ranks that are threads one `shows` how
  // far it is.
  SpotCheck(const MoeConfig& config, std::span<const PlacedWeights> ranks, const Rows& hidden,
            const Routing& routing, bool shows = true);

  // Relative L2 error of these tokens' rows of `output`, which is on the device.
  double rel_error(ConstTensor output, Backend& backend) const;

 private:
  std::vector<int64_t> tokens_;
  std::vector<double> expected_;  // [tokens, H]
};

// The strategies of a list "A,B"; of "all" the three layouts.
std::vector<std::string> bench_strategies(const std::string& wanted);

// Layers whose parts were measured, and those that were not.
class GpuBench {
 public:
  explicit GpuBench(const BenchArguments& a) : a_(a), config_(a.source.config()) {
    if (a.routed_only) config_.shared = {};
  }
  virtual ~GpuBench() = default;

  // A table or JSON; the exit code.
  int print() const;

 protected:
  struct Row {
    int64_t tokens;
    std::string strategy, layout;
    OpTime time;
    double floor_us = 0;
    double link_gbps = 0;  // of a copy of as many bytes between ranks; 0: nothing crosses a link
  };
  // Of a layer, or why there is none.
  struct Check {
    int64_t tokens;
    std::string strategy;
    double rel_error = 0;
    std::string problem{};
    bool failed =
        false;  // a wrong result or a fault; else the strategy does not go with the request
  };

  // Whether a result is close to float64. If not, that is its problem, and it is not timed.
  bool is_close(Check& check) const;
  // Of every row: what was measured and where.
  static nlohmann::json json_of(const Row& row);

  // "cuBLAS 780 TFLOP/s", or of experts in fp8 both rates.
  std::string product_rates() const;

  // What the JSON has beside layer, device, rates and run.
  virtual nlohmann::json results() const = 0;
  // Above the line of problems.
  virtual void print_table() const = 0;

  const BenchArguments& a_;
  MoeConfig config_;  // as it is measured
  DeviceRates rates_;
  std::vector<Row> rows_;
  std::vector<Check> checks_;
};

}  // namespace switchyard::cli
