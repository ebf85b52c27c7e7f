// cli/bench_cuda.cc -- switchyard bench --device cuda: graphs, cold L2, medians, and floors by
// rates that the same process measured.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "bench.h"
#include "bench_problem.h"
#include "commands.h"
#include "console.h"
#include "spot_check.h"
#include "switchyard/measure.h"

namespace switchyard::cli {
namespace {

// A layer that was measured, or why it was not.
struct Result {
  int64_t tokens = 0;
  std::string strategy;
  std::string layout;
  std::string problem;
  bool failed = false;  // a wrong result or a fault; else the strategy does not go with the request
  double rel_error = 0;
  std::vector<OpTime> times;
};

// A problem, and what a few of its rows should be.
struct Problem : BenchProblem {
  Problem(const MoeConfig& config, const LayerWeights& weights, Backend& backend,
          const std::string& kind, int64_t num_tokens)
      : BenchProblem(config, backend, kind, num_tokens),
        check(config, std::array{PlacedWeights{&weights, &backend}}, host_hidden, routing) {}

  SpotCheck check;
};

class CudaBench {
 public:
  explicit CudaBench(const BenchArguments& a)
      : a_(a),
        config_(a.source.config()),
        backend_(make_cuda_backend()),
        rates_(measure_device(*backend_)) {
    weights_ = bench_weights(a, *backend_);
    if (a.routed_only) config_.shared = {};
  }

  void run() {
    const auto progress = progress_on_terminal("measuring");
    for (size_t i = 0; i < a_.tokens.size(); ++i) {
      if (a_.tokens[i] > 0 && !try_tokens(a_.tokens[i])) return;
      if (progress) progress(static_cast<int64_t>(i + 1), static_cast<int64_t>(a_.tokens.size()));
    }
  }

  int print() const {
    a_.json ? print_json() : print_table();
    const bool good = std::ranges::none_of(results_, &Result::failed);
    return good ? kGood : kFailed;
  }

 private:
  // False after a fault: the device says no more, and what was measured before is still shown.
  bool try_tokens(int64_t tokens) {
    try {
      measure_tokens(tokens);
      return true;
    } catch (const Error& e) {
      Result r;
      r.tokens = tokens;
      r.strategy = a_.run.layer.strategy;
      r.problem = e.what();
      r.failed = true;
      results_.push_back(std::move(r));
      return e.code() != Errc::Cuda;
    }
  }

  void measure_tokens(int64_t tokens) {
    const Problem problem(config_, weights_, *backend_, a_.routing, tokens);
    active_experts_[tokens] = problem.routing.active_experts();
    for (const auto& name : bench_strategies(a_.run.layer.strategy)) {
      Result r;
      r.tokens = tokens;
      r.strategy = name;
      try {
        measure(problem, r);
      } catch (const Error& e) {
        if (e.code() == Errc::Cuda) throw;
        r.problem = e.what();
        r.failed = e.code() != Errc::Unsupported;
      }
      results_.push_back(std::move(r));
    }
  }

  void measure(const Problem& problem, Result& r) {
    LayerOptions options = a_.run.layer_options(problem.tokens);
    options.strategy = r.strategy;
    options.backend = backend_;
    const auto layer = MoeLayer::create(config_, weights_, options);
    r.strategy = layer->strategy().name;
    problem.poison_output(*backend_);
    r.layout = layout_name(layer->forward(problem.args_given_routing()).layout);
    layer->wait();
    r.rel_error = problem.check.rel_error(problem.output.view(), *backend_);
    if (!(r.rel_error <= kMaxBenchError)) {
      r.problem = wrong_result(r.rel_error);
      r.failed = true;
      return;
    }
    const MeasureOptions how{.repeat = a_.repeat};
    r.times = measure_forward(*layer, problem.args_given_routing(), *backend_, how);
    add_gate(*layer, problem, how, r);
  }

  // The same layer with its own gate: what that adds, and the whole.
  void add_gate(MoeLayer& layer, const Problem& problem, MeasureOptions how, Result& r) {
    how.only = Phase::Gate;
    for (auto& time : measure_forward(layer, problem.args(), *backend_, how))
      if (time.bytes > 0) r.times.push_back(std::move(time));
  }

  void print_json() const {
    nlohmann::json rows = nlohmann::json::array(), checks = nlohmann::json::array();
    for (const auto& r : results_) {
      checks.push_back({{"tokens", r.tokens},
                        {"strategy", r.strategy},
                        {"rel_error", r.rel_error},
                        {"failed", r.failed},
                        {"problem", r.problem}});
      for (const auto& t : r.times) rows.push_back(row_of(r, t));
    }
    nlohmann::json json = result_head(a_, config_, rates_);
    json.update({{"rows", rows}, {"checks", checks}});
    fmt::print("{}\n", json.dump());
  }

  nlohmann::json row_of(const Result& r, const OpTime& t) const {
    nlohmann::json row = to_json(t);
    row.update({{"tokens", r.tokens},
                {"active_experts", active_experts_.at(r.tokens)},
                {"strategy", r.strategy},
                {"layout", r.layout},
                {"floor_us", floor_us(t, rates_)}});
    return row;
  }

  void print_table() const {
    fmt::print("layer     {}{}\n          {}\n", a_.source.name(),
               a_.routed_only ? ", without shared experts" : "", describe(config_));
    fmt::print("device    {}, driver {}, version {}\n", rates_.name, rates_.driver,
               SWITCHYARD_VERSION);
    fmt::print(
        "measured  copy {:.0f} GB/s, read {:.0f} GB/s, cuBLAS {:.0f} TFLOP/s, SM clock {:.0f} MHz\n"
        "          cold L2, CUDA graphs, medians of {} on a rested card, {} routing\n\n",
        rates_.copy_gbps, rates_.read_gbps, rates_.gemm_tflops, rates_.sm_clock_mhz, a_.repeat,
        a_.routing);
    Table table(
        {"<tokens  strategy", "<operation", "us", "floor us", "x floor", "TFLOP/s", "GB/s"});
    for (const auto& r : results_)
      for (const auto& t : r.times) add_line(table, r, t);
    fmt::print("{}", table.text());
    for (const auto& r : results_)
      if (!r.problem.empty())
        fmt::print("{} tokens, {}: {} {}\n", r.tokens, r.strategy,
                   r.failed ? "FAILED," : "left out,", r.problem);
  }

  void add_line(Table& table, const Result& r, const OpTime& t) const {
    const double floor = floor_us(t, rates_);
    table.add({fmt::format("{:>6}  {}", r.tokens, r.strategy), t.op, fmt::format("{:.1f}", t.us),
               fmt::format("{:.1f}", floor), floor > 0 ? fmt::format("{:.2f}", t.us / floor) : "-",
               fmt::format("{:.1f}", t.flops / t.us * 1e-6),
               fmt::format("{:.0f}", t.bytes / t.us * 1e-3)});
  }

  const BenchArguments& a_;
  MoeConfig config_;
  std::shared_ptr<Backend> backend_;
  DeviceRates rates_;
  LayerWeights weights_;
  std::map<int64_t, int64_t> active_experts_;
  std::vector<Result> results_;
};

}  // namespace

int bench_on_cuda(const BenchArguments& arguments) {
  CudaBench bench(arguments);
  bench.run();
  return bench.print();
}

}  // namespace switchyard::cli
