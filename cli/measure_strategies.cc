// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/measure_strategies.cc
#include "measure_strategies.h"

#include <algorithm>
#include <memory>

#include "commands.h"
#include "ranks.h"

namespace switchyard::cli {
namespace {

std::string failed_conditions(const Strategy& s) {
  std::string text;
  for (const Condition& c : s.conditions)
    if (!c.holds) text += (text.empty() ? "" : "; ") + c.text;
  return text;
}

class StrategyBench {
 public:
  StrategyBench(const BenchArguments& a, std::span<const Strategy> candidates)
      : a_(a),
        candidates_(candidates),
        config_(a.source.config()),
        results_(candidates.size()),
        placed_(static_cast<size_t>(a.run.ranks)),
        times_(placed_.size()),
        errors_(placed_.size()) {
    config_.shared = {};  // predictions leave them out
    check_memory(0);
    for (size_t i = 0; i < candidates_.size(); ++i) {
      results_[i].problem = why_not(candidates_[i]);
      if (results_[i].problem.empty()) to_run_.push_back(i);
    }
  }

  std::vector<MeasuredStrategy> run() {
    if (to_run_.empty()) return results_;
    const auto progress = progress_on_terminal("measuring");
    run_local_ranks(a_.run.ranks, [&](Communicator& comm) {
      const auto backend = make_backend(options(), comm.size(), comm.rank());
      const LayerWeights weights = bench_weights(a_, *backend, comm.size(), comm.rank());
      placed_[static_cast<size_t>(comm.rank())] = {&weights, backend.get()};
      meet(comm);
      const BenchProblem problem(config_, *backend, a_.routing, tokens(),
                                 a_.run.group_of(comm.rank()), options().device);
      const SpotCheck check(config_, placed_, problem.host_hidden, problem.routing,
                            comm.rank() == 0);
      const OnRank rank{comm, backend, weights, problem, check};
      for (size_t i = 0; i < to_run_.size(); ++i) {
        measure(rank, to_run_[i]);
        if (progress && comm.rank() == 0)
          progress(static_cast<int64_t>(i) + 1, static_cast<int64_t>(to_run_.size()));
      }
      meet(comm);  // before the weights go, which others read
    });
    return results_;
  }

 private:
  struct OnRank {
    Communicator& comm;
    const std::shared_ptr<Backend>& backend;
    const LayerWeights& weights;
    const BenchProblem& problem;
    const SpotCheck& check;
  };

  int64_t tokens() const { return a_.tokens.front(); }
  LayerOptions options() const { return a_.run.layer_options(tokens()); }

  void check_memory(size_t workspace_bytes) const {
    a_.source.check_memory(a_.run.ranks, a_.run.ranks, workspace_bytes, options().device);
  }

  std::string why_not(const Strategy& s) const {
    if (!s.holds()) return failed_conditions(s);
    try {
      check_memory(static_cast<size_t>(s.workspace_bytes));
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  // Ranks go in step; the first one writes results.
  void measure(const OnRank& rank, size_t candidate) {
    LayerOptions how = options();
    how.strategy = candidates_[candidate].name;
    how.backend = rank.backend;
    meet(rank.comm);
    std::unique_ptr<MoeLayer> layer;
    try {
      layer = MoeLayer::create(config_, rank.weights, rank.comm, how);
    } catch (const Error& e) {  // on every rank
      if (e.code() != Errc::Unsupported) throw;
      if (rank.comm.rank() == 0) results_[candidate].problem = e.what();
      return;
    }
    if (is_close(rank, *layer, candidate)) time(rank, *layer, candidate);
    meet(rank.comm);  // before the layer's memory goes
  }

  // On every rank or on none.
  bool is_close(const OnRank& rank, MoeLayer& layer, size_t candidate) {
    const auto stream = make_stream(*rank.backend);
    ForwardArgs args = rank.problem.args_given_routing();
    args.stream = stream.get();
    rank.problem.poison_output(*rank.backend, stream.get());
    meet(rank.comm);
    layer.forward(args);
    layer.wait(stream.get());
    errors_[static_cast<size_t>(rank.comm.rank())] =
        rank.check.rel_error(rank.problem.output.view(), *rank.backend);
    meet(rank.comm);
    const double error = worst_error(errors_);
    const std::string problem = problem_of_error(error, a_.source.expert_format().dtype);
    if (rank.comm.rank() == 0) {
      results_[candidate].rel_error = error;
      results_[candidate].problem = problem;
      results_[candidate].is_wrong = !problem.empty();
    }
    return problem.empty();
  }

  void time(const OnRank& rank, MoeLayer& layer, size_t candidate) {
    // The layer alone; operations of the gate are few where routing is given.
    MeasureOptions how{.repeat = a_.repeat, .meet = [&] { switchyard::meet(rank.comm); }};
    if (rank.comm.size() == 1) how.only = Phase::Gate;
    times_[static_cast<size_t>(rank.comm.rank())] =
        measure_forward(layer, rank.problem.args_given_routing(), *rank.backend, how).back();
    meet(rank.comm);
    if (rank.comm.rank() != 0) return;
    const OpTime& slowest = *std::ranges::max_element(times_, {}, &OpTime::us);
    results_[candidate].us = slowest.us;
    results_[candidate].min_us = slowest.min_us;
    results_[candidate].max_us = slowest.max_us;
    results_[candidate].num_kernels = slowest.num_kernels;
    results_[candidate].num_operations = slowest.num_operations;
  }

  const BenchArguments& a_;
  std::span<const Strategy> candidates_;
  MoeConfig config_;  // as it is measured
  std::vector<MeasuredStrategy> results_;
  std::vector<size_t> to_run_;
  // What ranks leave for each other between two meetings.
  std::vector<PlacedWeights> placed_;
  std::vector<OpTime> times_;
  std::vector<double> errors_;
};

}  // namespace

std::vector<MeasuredStrategy> measure_strategies(const BenchArguments& arguments,
                                                 std::span<const Strategy> candidates) {
  return StrategyBench(arguments, candidates).run();
}

}  // namespace switchyard::cli
