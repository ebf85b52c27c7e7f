// cli/bench_command.cc -- switchyard bench: each operation and the layer, beside the floor of this
// machine.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "commands.h"
#include "console.h"
#include "layer_options.h"
#include "machine.h"
#include "rows.h"

namespace switchyard::cli {
namespace {

struct BenchArguments {
  LayerSource source;
  RunOptions run;
  std::vector<int64_t> tokens = {1, 8, 32, 128};
  int repeat = 20;
  bool json = false;
};

// One operation (or the layer) at one number of tokens.
struct Row {
  int64_t tokens;
  std::string op;
  double us, bytes, flops;  // of one forward on rank 0

  double floor_us(const MachineRates& m, int num_ranks) const {
    // Ranks are threads of one machine and share its rates.
    return std::max(flops / m.fma_gflops, bytes / m.read_gbps) * 1e-3 * num_ranks;
  }
};

// What one operation took in each forward: calls of one name within a forward add up.
class Trace {
 public:
  void begin_forward() {
    for (auto& [name, op] : ops_) op.us.push_back(0), op.bytes = op.flops = 0;
    ++num_forwards_;
  }
  void note(const OpEvent& e) {
    if (num_forwards_ == 0) return;
    auto [at, fresh] = ops_.try_emplace(e.op);
    if (fresh) order_.push_back(e.op), at->second.us.push_back(0);
    at->second.us.back() += e.us;
    at->second.bytes += e.bytes;
    at->second.flops += e.flops;
  }
  std::vector<Row> rows(int64_t tokens) const {
    std::vector<Row> all;
    for (const auto& name : order_) {
      const Op& op = ops_.at(name);
      all.push_back({tokens, name, median(op.us), op.bytes, op.flops});
    }
    return all;
  }

 private:
  struct Op {
    std::vector<double> us;
    double bytes = 0, flops = 0;  // of the last forward
  };
  std::map<std::string, Op> ops_;
  std::vector<std::string> order_;
  int num_forwards_ = 0;
};

double us_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

// The layer alone first, then again with every operation observed.
std::vector<Row> measure(const BenchArguments& a, MoeLayer& layer, Backend& backend, int64_t tokens,
                         int rank) {
  const Rows hidden = random_rows(tokens, layer.config().hidden, 7 + static_cast<uint64_t>(rank));
  Rows output(tokens, layer.config().hidden);
  const ForwardArgs args{.output = output.view(), .hidden = hidden.view(), .max_tokens = tokens};
  const auto once = [&] {
    const auto start = std::chrono::steady_clock::now();
    layer.forward(args);
    layer.wait();
    return us_since(start);
  };
  once();
  std::vector<double> us(static_cast<size_t>(a.repeat));
  for (double& each : us) each = once();

  Trace trace;
  observe_operations(backend, [&trace](const OpEvent& e) { trace.note(e); });
  for (int i = 0; i < a.repeat; ++i) trace.begin_forward(), once();
  observe_operations(backend, {});
  auto rows = trace.rows(tokens);
  Row whole{tokens, "layer", median(us), 0, 0};
  for (const auto& r : rows) whole.flops += r.flops;
  // Of the layer only weights and the rows in and out have to move; what lies between could stay in
  // caches.
  for (const auto& r : rows)
    if (r.flops > 0 && r.op != "gather_rows" && r.op != "sum_partials") whole.bytes += r.bytes;
  rows.push_back(whole);
  return rows;
}

std::vector<Row> run_bench(const BenchArguments& a, std::string& strategy) {
  const int64_t capacity = *std::max_element(a.tokens.begin(), a.tokens.end());
  const LayerOptions shared_options = a.run.layer_options(capacity);
  a.source.check_memory(a.run.ranks, a.run.ranks,
                        MoeLayer::workspace_bytes(a.source.config(), a.run.ranks, shared_options));
  std::vector<Row> all;
  const auto progress = progress_on_terminal("measuring");
  run_local_ranks(a.run.ranks, [&](Communicator& comm) {
    LayerOptions options = shared_options;
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    options.backend =
        make_cpu_backend(a.run.threads > 0 ? a.run.threads : std::max(1, cores / comm.size()));
    auto layer = MoeLayer::create(a.source.config(), a.source.weights(comm.size(), comm.rank(), {}),
                                  comm, options);
    if (comm.rank() == 0) strategy = layer->strategy().name;
    for (size_t i = 0; i < a.tokens.size(); ++i) {
      auto rows = measure(a, *layer, *options.backend, a.tokens[i], comm.rank());
      if (comm.rank() != 0) continue;
      all.insert(all.end(), rows.begin(), rows.end());
      if (progress) progress(static_cast<int64_t>(i + 1), static_cast<int64_t>(a.tokens.size()));
    }
  });
  return all;
}

int bench(BenchArguments& a) {
  device_from(a.run.device);
  if (a.run.ranks < 1 || a.repeat < 1) throw UsageError("--ranks and --repeat need at least 1");
  for (const int64_t t : a.tokens)
    if (t < 0 || t > INT32_MAX)
      throw UsageError(fmt::format("--tokens={}, need 0 to 2147483647", t));
  a.source.open();
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads =
      a.run.threads > 0 ? a.run.threads * a.run.ranks : std::max(cores, a.run.ranks);
  const MachineRates machine = measure_machine(std::min(threads, cores));
  std::string strategy;
  const auto rows = run_bench(a, strategy);

  nlohmann::json lines = nlohmann::json::array();
  Table table({"<tokens  operation", "us", "floor us", "of floor", "GB/s", "GFLOP/s"});
  for (const auto& r : rows) {
    const double floor = r.floor_us(machine, a.run.ranks);
    lines.push_back({{"tokens", r.tokens},
                     {"op", r.op},
                     {"us", r.us},
                     {"floor_us", floor},
                     {"bytes", r.bytes},
                     {"flops", r.flops}});
    table.add({fmt::format("{:>6}  {}", r.tokens, r.op), fmt::format("{:.1f}", r.us),
               fmt::format("{:.1f}", floor), floor > 0 ? fmt::format("{:.2f}x", r.us / floor) : "-",
               fmt::format("{:.2f}", r.bytes / r.us * 1e-3),
               fmt::format("{:.1f}", r.flops / r.us * 1e-3)});
  }
  const auto& device = describe_device(DeviceKind::Cpu);
  if (a.json) {
    const nlohmann::json json = {{"layer", a.source.name()},
                                 {"strategy", strategy},
                                 {"device", device.name},
                                 {"ranks", a.run.ranks},
                                 {"threads", threads},
                                 {"version", SWITCHYARD_VERSION},
                                 {"read_gbps", machine.read_gbps},
                                 {"fma_gflops", machine.fma_gflops},
                                 {"rows", lines}};
    fmt::print("{}\n", json.dump());
    return kGood;
  }
  fmt::print(
      "layer     {}\n          {}\nstrategy  {}, {} ranks, {} threads in all, version {}\ndevice   "
      " {}\n",
      a.source.name(), describe(a.source.config()), strategy, a.run.ranks, threads,
      SWITCHYARD_VERSION, device.name);
  fmt::print(
      "measured  {:.1f} GB/s of reads, {:.0f} GFLOP/s of fp32 multiply-adds: floor = max(bytes, "
      "flops over these)\n\n",
      machine.read_gbps, machine.fma_gflops);
  fmt::print("{}", table.text());
  return kGood;
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto a = std::make_shared<BenchArguments>();
  auto& c = *app.add_subcommand(
      "bench", "Time every operation and the layer beside the floor of this machine");
  a->source.add_options(c);
  a->run.add_options(c);
  c.add_option("--tokens", a->tokens, "Tokens of each rank, a list")
      ->delimiter(',')
      ->type_name("T,T,...");
  c.add_option("--repeat", a->repeat, "Runs whose median is shown");
  c.add_flag("--json", a->json, "Print one JSON object");
  c.footer("Example:\n  switchyard bench --preset olmoe-1b-7b --tokens 1,32,512");
  return [a] { return bench(*a); };
}

}  // namespace switchyard::cli
