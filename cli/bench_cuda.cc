// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/bench_cuda.cc -- switchyard bench --device cuda: graphs, cold L2, medians, and floors by
// rates that the same process measured.
#include <array>
#include <map>

#include "bench.h"
#include "commands.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

// A problem, and what a few of its rows should be.
struct Problem : BenchProblem {
  Problem(const MoeConfig& config, const LayerWeights& weights, Backend& backend,
          const std::string& kind, int64_t num_tokens)
      : BenchProblem(config, backend, kind, num_tokens),
        check(config, std::array{PlacedWeights{&weights, &backend}}, host_hidden, routing) {}

  SpotCheck check;
};

class CudaBench final : public GpuBench {
 public:
  explicit CudaBench(const BenchArguments& a) : GpuBench(a), backend_(make_cuda_backend()) {
    rates_ = measure_device(*backend_);
    weights_ = bench_weights(a, *backend_);
  }

  void run() {
    const auto progress = progress_on_terminal("measuring");
    for (size_t i = 0; i < a_.tokens.size(); ++i) {
      if (a_.tokens[i] > 0 && !try_tokens(a_.tokens[i])) return;
      if (progress) progress(i + 1, a_.tokens.size());
    }
  }

 private:
  // False after a fault: the device says no more, and what was measured before is still shown.
  bool try_tokens(int64_t tokens) {
    try {
      measure_tokens(tokens);
      return true;
    } catch (const Error& e) {
      checks_.push_back({.tokens = tokens,
                         .strategy = a_.run.layer.strategy,
                         .problem = e.what(),
                         .failed = true});
      return e.code() != Errc::Cuda;
    }
  }

  void measure_tokens(int64_t tokens) {
    const Problem problem(config_, weights_, *backend_, a_.routing, tokens);
    active_experts_[tokens] = problem.routing.active_experts();
    for (const auto& name : bench_strategies(a_.run.layer.strategy)) {
      Check check{.tokens = tokens, .strategy = name};
      try {
        measure(problem, check);
      } catch (const Error& e) {
        if (e.code() == Errc::Cuda) throw;
        check.problem = e.what();
        check.failed = e.code() != Errc::Unsupported;
      }
      checks_.push_back(std::move(check));
    }
  }

  void measure(const Problem& problem, Check& check) {
    LayerOptions options = a_.run.layer_options(problem.tokens);
    options.strategy = check.strategy;
    options.backend = backend_;
    const auto layer = MoeLayer::create(config_, weights_, options);
    check.strategy = layer->strategy().name;
    problem.poison_output(*backend_);
    const std::string layout = layout_name(layer->forward(problem.args_given_routing()).layout);
    layer->wait();
    check.rel_error = problem.check.rel_error(problem.output.view(), *backend_);
    if (!is_close(check)) return;
    const auto add = [&](const OpTime& time) {
      rows_.push_back({check.tokens, check.strategy, layout, time, floor_us(time, rates_)});
    };
    MeasureOptions how{.repeat = a_.repeat};
    for (const auto& time : measure_forward(*layer, problem.args_given_routing(), *backend_, how))
      add(time);
    // The same layer with its own gate: what that adds, and the whole.
    how.only = Phase::Gate;
    for (const auto& time : measure_forward(*layer, problem.args(), *backend_, how))
      if (time.bytes > 0) add(time);
  }

  nlohmann::json results() const override {
    nlohmann::json rows = nlohmann::json::array(), checks = nlohmann::json::array();
    for (const Check& c : checks_)
      checks.push_back({{"tokens", c.tokens},
                        {"strategy", c.strategy},
                        {"rel_error", c.rel_error},
                        {"failed", c.failed},
                        {"problem", c.problem}});
    for (const Row& r : rows_) {
      rows.push_back(json_of(r));
      rows.back()["active_experts"] = active_experts_.at(r.tokens);
    }
    return {{"rows", rows}, {"checks", checks}};
  }

  void print_table() const override {
    say("layer     {}{}\n          {}\n", a_.source.name(),
        a_.routed_only ? ", without shared experts" : "", describe(config_));
    say("device    {}, driver {}, version {}\n", rates_.name, rates_.driver, SWITCHYARD_VERSION);
    say("measured  copy {:.0f} GB/s, read {:.0f} GB/s, {}, SM clock {:.0f} MHz\n"
        "          cold L2, CUDA graphs, medians of {} on a rested card, {} routing\n\n",
        rates_.copy_gbps, rates_.read_gbps, product_rates(), rates_.sm_clock_mhz, a_.repeat,
        a_.routing);
    Table table({"<tokens  strategy", "<operation", "us", "floor us", "x floor", "TFLOP/s", "GB/s",
                 "kernels"});
    for (const Row& r : rows_) {
      const OpTime& t = r.time;
      table.add({fmt::format("{:>6}  {}", r.tokens, r.strategy), t.op, fmt::format("{:.1f}", t.us),
                 fmt::format("{:.1f}", r.floor_us),
                 r.floor_us > 0 ? fmt::format("{:.2f}", t.us / r.floor_us) : "-",
                 fmt::format("{:.1f}", t.flops / t.us * 1e-6),
                 fmt::format("{:.0f}", t.bytes / t.us * 1e-3),
                 t.num_kernels > 0 ? std::to_string(t.num_kernels) : ""});
    }
    say("{}", table.text());
  }

  std::shared_ptr<Backend> backend_;
  LayerWeights weights_;
  std::map<int64_t, int64_t> active_experts_;
};

}  // namespace

int bench_on_cuda(const BenchArguments& arguments) {
  CudaBench bench(arguments);
  bench.run();
  return bench.print();
}

}  // namespace switchyard::cli
