// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/bench_ranks.cc -- switchyard bench --device cuda --ranks P: dispatch, experts and combine of
// a forward over ranks, beside the driver's copy of as many bytes over the same link.
#include <algorithm>
#include <map>
#include <optional>

#include "bench.h"
#include "commands.h"
#include "ranks.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

// What ranks leave for each other between two meetings.
struct Shared {
  explicit Shared(int num_ranks)
      : weights(static_cast<size_t>(num_ranks)),
        times(static_cast<size_t>(num_ranks)),
        errors(static_cast<size_t>(num_ranks)) {}

  std::vector<PlacedWeights> weights;
  std::vector<std::vector<OpTime>> times;
  std::vector<double> errors;  // relative, of a few tokens
};

class RanksBench final : public GpuBench {
 public:
  explicit RanksBench(const BenchArguments& a) : GpuBench(a), shared_(a.run.ranks) {}

  void run() {
    const auto progress = progress_on_terminal("measuring");
    run_local_ranks(a_.run.ranks, [&](Communicator& comm) {
      const auto backend = make_backend(a_.run.layer_options(0), comm.size(), comm.rank());
      const LayerWeights weights = bench_weights(a_, *backend, comm.size(), comm.rank());
      shared_.weights[comm.rank()] = {&weights, backend.get()};
      meet(comm);
      if (comm.rank() == 0) rates_ = measure_device(*backend);
      meet(comm);
      for (size_t i = 0; i < a_.tokens.size(); ++i) {
        if (a_.tokens[i] > 0) measure_tokens(comm, backend, weights, a_.tokens[i]);
        if (progress && comm.rank() == 0) progress(i + 1, a_.tokens.size());
      }
    });
  }

 private:
  void measure_tokens(Communicator& comm, const std::shared_ptr<Backend>& backend,
                      const LayerWeights& weights, int64_t tokens) {
    const BenchProblem problem(config_, *backend, a_.routing, tokens, a_.run.group_of(comm.rank()));
    const SpotCheck check(config_, shared_.weights, problem.host_hidden, problem.routing,
                          comm.rank() == 0);
    for (const auto& name : bench_strategies(a_.run.layer.strategy)) {
      LayerOptions options = a_.run.layer_options(tokens);
      options.strategy = name;
      options.backend = backend;
      const std::optional<Strategy> chosen = measure_layer(comm, weights, options, problem, check);
      if (!chosen) continue;
      // The same with dispatch and experts apart, one after the other.
      options.token_pieces = 1;
      options.fetch_rows = false;
      if (chosen->token_pieces > 1 || chosen->fetch_rows)
        measure_layer(comm, weights, options, problem, check);
      if (chosen->rows == DType::Bf16) continue;
      options.fp8_rows = false;  // and quantised where they arrive
      measure_layer(comm, weights, options, problem, check);
    }
    meet(comm);
  }

  // Nothing where there is no such layer.
  std::optional<Strategy> measure_layer(Communicator& comm, const LayerWeights& weights,
                                        const LayerOptions& options, const BenchProblem& problem,
                                        const SpotCheck& check) {
    meet(comm);
    std::unique_ptr<MoeLayer> layer;
    try {
      layer = MoeLayer::create(config_, weights, comm, options);
    } catch (const Error& e) {  // on every rank
      if (e.code() != Errc::Unsupported) throw;
      if (comm.rank() == 0) checks_.push_back({problem.tokens, options.strategy, 0, e.what()});
      return {};
    }
    const std::string name = name_of(layer->strategy());
    const auto measure_rows = [&](ConstTensor hidden, const std::string& of) {
      measure(comm, *options.backend, *layer, problem, check, {hidden, of});
    };
    measure_rows(problem.hidden.view(), name);
    if (const Tensor place = layer->input_rows(); place.present()) {
      const Tensor rows = place.rows(0, problem.tokens);
      copy_to_device(*options.backend, rows, problem.host_hidden.view().data);
      measure_rows(rows, name + " in place");
    }
    meet(comm);  // before the layer's memory goes
    return layer->strategy();
  }

  // What is measured of one layer, and what that is called.
  struct Variant {
    ConstTensor hidden;
    std::string name;
  };

  void measure(Communicator& comm, Backend& backend, MoeLayer& layer, const BenchProblem& problem,
               const SpotCheck& check, const Variant& variant) {
    const auto at = static_cast<size_t>(comm.rank());
    const auto stream = make_stream(backend);
    ForwardArgs args = problem.args_given_routing();
    args.hidden = variant.hidden;
    args.stream = stream.get();
    problem.poison_output(backend, stream.get());
    meet(comm);
    const std::string layout = layout_name(layer.forward(args).layout);
    layer.wait(stream.get());
    shared_.errors[at] = check.rel_error(problem.output.view(), backend);
    meet(comm);
    Check worst{problem.tokens, variant.name, worst_error(shared_.errors)};
    if (!is_close(worst)) {
      if (comm.rank() == 0) checks_.push_back(std::move(worst));
      return;
    }
    shared_.times[at] = measure_forward(
        layer, args, backend, {.repeat = a_.repeat, .meet = [&comm] { switchyard::meet(comm); }});
    meet(comm);
    if (comm.rank() == 0) add_rows(problem.tokens, variant.name, layout);
  }

  static std::string name_of(const Strategy& s) {
    std::string name = s.name;
    if (s.rows != DType::Bf16) name += ", fp8 rows";
    if (s.token_pieces > 1) return fmt::format("{}, {} pieces", name, s.token_pieces);
    return s.fetch_rows ? name + (s.rows == DType::Bf16 ? ", rows fetched" : " fetched") : name;
  }

  // Of all ranks the longest time and the most bytes.
  void add_rows(int64_t tokens, const std::string& strategy, const std::string& layout) {
    for (size_t i = 0; i < shared_.times[0].size(); ++i) {
      Row row{tokens, strategy, layout, shared_.times[0][i]};
      for (const auto& rank : shared_.times) {
        row.time.us = std::max(row.time.us, rank[i].us);
        row.time.min_us = std::max(row.time.min_us, rank[i].min_us);
        row.time.max_us = std::max(row.time.max_us, rank[i].max_us);
        row.time.bytes = std::max(row.time.bytes, rank[i].bytes);
        row.time.flops = std::max(row.time.flops, rank[i].flops);
      }
      const auto phase = row.time.phase;
      const bool links = phase == Phase::Dispatch || phase == Phase::Combine;
      if (links && row.time.bytes >= 2) {
        row.link_gbps = link_gbps(static_cast<int64_t>(row.time.bytes));
        row.floor_us = row.time.bytes / row.link_gbps * 1e-3;
      } else if (!links) {
        OpTime layer = row.time;  // "experts" have the floor of a layer
        layer.is_layer = true;
        row.floor_us = floor_us(layer, rates_);
      }
      rows_.push_back(std::move(row));
    }
  }

  // From rank 0 to rank 1, whatever devices these have.
  double link_gbps(int64_t bytes) {
    double& gbps = link_gbps_[bytes];
    if (gbps == 0)
      gbps = measure_link(*shared_.weights[0].backend, *shared_.weights[1].backend, bytes);
    return gbps;
  }

  nlohmann::json results() const override {
    nlohmann::json rows = nlohmann::json::array(), refusals = nlohmann::json::array();
    for (const Row& r : rows_) {
      rows.push_back(json_of(r));
      rows.back()["link_gbps"] = r.link_gbps;
    }
    for (const Check& c : checks_)
      refusals.push_back({{"tokens", c.tokens},
                          {"strategy", c.strategy},
                          {"problem", c.problem},
                          {"failed", c.failed}});
    return {{"ranks", a_.run.ranks},
            {"devices", num_devices()},
            {"rows", rows},
            {"refusals", refusals}};
  }

  int num_devices() const {
    return std::min(a_.run.ranks, describe_device(DeviceKind::Cuda).num_devices);
  }

  void print_table() const override {
    say("layer     {}\n          {}\n", a_.source.name(), describe(config_));
    say("ranks     {} on {} of {}, driver {}, version {}\n", a_.run.ranks, num_devices(),
        rates_.name, rates_.driver, SWITCHYARD_VERSION);
    say("measured  read {:.0f} GB/s, {}, SM clock {:.0f} MHz\n"
        "          cold L2, one CUDA graph per rank, medians of {} on rested cards, the slowest "
        "rank, {} routing\n"
        "          floor of dispatch and combine: the driver's copy of the bytes that leave a "
        "rank\n"
        "\n",
        rates_.read_gbps, product_rates(), rates_.sm_clock_mhz, a_.repeat, a_.routing);
    Table table({"<tokens  strategy", "<part", "us", "floor us", "x floor", "MB", "GB/s", "ops",
                 "kernels"});
    for (const auto& r : rows_) {
      const double floor = r.floor_us;
      table.add({fmt::format("{:>6}  {}", r.tokens, r.strategy),
                 r.time.eager ? r.time.op + ", eager" : r.time.op, fmt::format("{:.1f}", r.time.us),
                 fmt::format("{:.1f}", floor),
                 floor > 0 ? fmt::format("{:.2f}", r.time.us / floor) : "-",
                 fmt::format("{:.2f}", r.time.bytes * 1e-6),
                 fmt::format("{:.0f}", r.time.bytes / r.time.us * 1e-3),
                 r.time.is_layer ? std::to_string(r.time.num_operations) : "",
                 r.time.num_kernels > 0 ? std::to_string(r.time.num_kernels) : ""});
    }
    say("{}", table.text());
  }

  Shared shared_;
  std::map<int64_t, double> link_gbps_;
};

}  // namespace

int bench_over_ranks(const BenchArguments& arguments) {
  RanksBench bench(arguments);
  bench.run();
  return bench.print();
}

}  // namespace switchyard::cli
