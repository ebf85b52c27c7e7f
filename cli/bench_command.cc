// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/bench_command.cc -- switchyard bench: each operation and the layer, beside the floor of this
// machine.
#include <fmt/chrono.h>

#include <algorithm>
#include <ctime>
#include <optional>
#include <thread>

#include "bench.h"
#include "commands.h"
#include "machine.h"
#include "ranks.h"
#include "report/write.h"
#include "switchyard/file.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

// One operation (or the layer) at one number of tokens, of one forward on rank 0.
struct Row {
  int64_t tokens;
  OpTime time;

  double floor_us(const MachineRates& m, int num_ranks) const {
    // Ranks are threads of one machine and share its rates.
    return std::max(time.flops / m.fma_gflops, time.bytes / m.read_gbps) * 1e-3 * num_ranks;
  }
};

std::vector<Row> run_bench(const BenchArguments& a, std::string& strategy) {
  const int64_t capacity = *std::ranges::max_element(a.tokens);
  LayerOptions shared_options = a.run.layer_options(capacity);
  shared_options.experts = a.source.expert_format().dtype;
  a.source.check_memory(a.run.ranks, a.run.ranks,
                        MoeLayer::workspace_bytes(a.source.config(), a.run.ranks, shared_options));
  std::vector<Row> all;
  const auto progress = progress_on_terminal("measuring");
  run_local_ranks(a.run.ranks, [&](Communicator& comm) {
    LayerOptions options = shared_options;
    options.backend = make_backend(options, comm.size(), comm.rank());
    auto layer = MoeLayer::create(a.source.config(), a.source.weights(comm.size(), comm.rank(), {}),
                                  comm, options);
    if (comm.rank() == 0) strategy = layer->strategy().name;
    const int64_t width = layer->config().hidden;
    for (size_t i = 0; i < a.tokens.size(); ++i) {
      const int64_t tokens = a.tokens[i];
      const auto seed = 7 + static_cast<uint64_t>(a.run.group_of(comm.rank()));
      const Rows hidden = random_rows(tokens, width, seed);
      Rows output(tokens, width);
      const auto times = measure_forward(
          *layer, {.output = output.view(), .hidden = hidden.view(), .max_tokens = tokens},
          *options.backend, {.repeat = a.repeat});
      if (comm.rank() != 0) continue;
      for (const auto& time : times) all.push_back({tokens, time});
      if (progress) progress(i + 1, a.tokens.size());
    }
  });
  return all;
}

// Before a long run.
void check_report(const BenchArguments& a) {
  if (a.report.empty()) return;
  check_report_target(a.report);
  a.source.refuse_as_output(a.report, "--report");
}

constexpr int kTunedRepeat = 9;
// Every number of tokens that a table of configurations has, a factor of two apart.
const std::vector<int64_t> kTunedTokens{128, 256, 512, 1024, 2048, 4096, 8192};

// Before the device is looked at.
void check_tuning(const BenchArguments& a) {
  const CLI::App& c = *a.command;
  if (!a.tune) return refuse_unused(c, {"--out"}, "--tune");
  require_usage(
      a.run.device == "cuda",
      "--device={}, has one form of each GEMM, of which --tune times several. Say --device cuda",
      a.run.device);
  refuse_unused(c,
                {"--linear-attention", "--batch", "--report", "--gemm1", "--gemm2", "--num-sms",
                 "--routed-only"},
                "a benchmark without --tune");
  require_usage(a.run.ranks == 1, "--ranks={}, need 1 with --tune", a.run.ranks);
  require_usage(a.tokens.empty() || std::ranges::min(a.tokens) > 0,
                "--tokens=0, need 1 or more with --tune");
}

int tune(BenchArguments& a) {
  a.run.require_used();
  if (!is_given(*a.command, "--repeat")) a.repeat = kTunedRepeat;
  if (a.tokens.empty()) a.tokens = kTunedTokens;
  a.source.open();
  if (!a.out.empty()) {
    check_file_target(a.out);
    a.source.refuse_as_output(a.out, "--out");
  }
  return tune_gemms(a);
}

int bench(BenchArguments& a) {
  check_tuning(a);
  const DeviceKind device = device_from(a.run.device);
  const bool cuda = device == DeviceKind::Cuda;
  require_usage(
      a.transport == "threads" || launched_by().empty(),
      "bench: the environment says that this process is one of several, and each would "
      "time the others. Start it once, its ranks are threads; if it is alone, as in a pod "
      "whose WORLD_SIZE and RANK are of another program, say --transport threads");
  if (a.tune) return tune(a);
  a.run.require_even_groups();
  a.run.require_used();
  require_usage(!cuda || a.repeat >= 20, "--device cuda needs --repeat of at least 20");
  const CLI::App& c = *a.command;
  if (a.linear_attention) {
    refuse_unused(c,
                  {"--model", "--layer", "--config", "--preset", "--ep-size", "--ep-rank",
                   "--strategy", "--routing", "--routed-only"},
                  "a layer, without --linear-attention");
    require_usage(a.run.ranks == 1, "--linear-attention needs --ranks 1");
    check_report(a);
    return bench_linear_attention(a);
  }
  refuse_unused(c, {"--batch"}, "--linear-attention");
  if (!cuda) refuse_unused(c, {"--routing", "--routed-only", "--commit"}, "--device cuda");
  if (a.tokens.empty())
    a.tokens = cuda ? std::vector<int64_t>{1, 8, 32, 128, 512, 2048, 8192}
                    : std::vector<int64_t>{1, 8, 32, 128};
  a.source.open();
  check_report(a);
  if (!cuda) return bench_on_cpu(a);
  return a.run.ranks > 1 ? bench_over_ranks(a) : bench_on_cuda(a);
}

}  // namespace

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

void show(const BenchArguments& a, const nlohmann::json& result,
          const std::function<void()>& print_table) {
  a.json ? say_json(result) : print_table();
  // Last: what was measured is not lost with a page that cannot be written.
  if (a.report.empty()) return;
  write_report(a.report, result);
  if (!a.json) say("\nreport    {}\n", a.report);
}

int bench_on_cpu(const BenchArguments& a) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = a.run.layer.num_threads > 0 ? a.run.layer.num_threads * a.run.ranks
                                                  : std::max(cores, a.run.ranks);
  std::optional<Waiting> waiting("measuring this machine");
  const MachineRates machine = measure_machine(std::min(threads, cores));
  waiting.reset();
  std::string strategy;
  const auto rows = run_bench(a, strategy);

  nlohmann::json lines = nlohmann::json::array();
  Table table({"<tokens  operation", "us", "floor us", "of floor", "GB/s", "GFLOP/s", "ops"});
  for (const auto& r : rows) {
    const OpTime& time = r.time;
    const double floor = r.floor_us(machine, a.run.ranks);
    lines.push_back({{"tokens", r.tokens},
                     {"op", time.op},
                     {"us", time.us},
                     {"floor_us", floor},
                     {"bytes", time.bytes},
                     {"flops", time.flops},
                     {"operations", time.num_operations}});
    table.add({fmt::format("{:>6}  {}", r.tokens, time.op), fmt::format("{:.1f}", time.us),
               fmt::format("{:.1f}", floor),
               floor > 0 ? fmt::format("{:.2f}x", time.us / floor) : "-",
               fmt::format("{:.2f}", time.bytes / time.us * 1e-3),
               fmt::format("{:.1f}", time.flops / time.us * 1e-3),
               time.is_layer ? std::to_string(time.num_operations) : ""});
  }
  const auto& device = describe_device(DeviceKind::Cpu);
  const nlohmann::json json = {{"layer", a.source.name()},
                               {"strategy", strategy},
                               {"device", device.name},
                               {"date", utc_now()},
                               {"experts", dtype_name(a.source.expert_format().dtype)},
                               {"ranks", a.run.ranks},
                               {"threads", threads},
                               {"version", SWITCHYARD_VERSION},
                               {"read_gbps", machine.read_gbps},
                               {"fma_gflops", machine.fma_gflops},
                               {"rows", lines}};
  show(a, json, [&] {
    say("layer     {}\n          {}\nstrategy  {}, {} ranks, {} threads in all, version {}\n"
        "device    {}\n",
        a.source.name(), describe(a.source.config()), strategy, a.run.ranks, threads,
        SWITCHYARD_VERSION, device.name);
    say("measured  {:.1f} GB/s of reads, {:.0f} GFLOP/s of fp32 multiply-adds: floor = max(bytes, "
        "flops over these)\n\n",
        machine.read_gbps, machine.fma_gflops);
    say("{}", table.text());
  });
  return kGood;
}

Command add_bench(CLI::App& app) {
  auto a = std::make_shared<BenchArguments>();
  auto& c = *app.add_subcommand(
      "bench", "Time every operation and the layer beside the floor of this machine");
  a->command = &c;
  a->source.add_options(c);
  a->run.add_options(c);
  add_numbers(c, "--tokens", a->tokens, {0, kMostTokens}, "T,T,...", "Tokens of each rank, a list")
      ->default_str("1,8,32,128, on CUDA up to 8192");
  c.add_flag("--linear-attention", a->linear_attention,
             "Steps of linear attention in place of a layer; --tokens of each sequence, 1 to 4");
  add_numbers(c, "--batch", a->batch, {1, 65536}, "B,B,...",
              "Sequences of a step of linear attention, a list")
      ->default_str("the usual ones");
  add_number(c, "--repeat", a->repeat, {1, 1'000'000}, "N", "Runs whose median is shown");
  add_choice(c, "--transport", a->transport, {"auto", "threads"},
             "threads: this process is alone, whatever the environment says of a launcher");
  c.add_flag("--json", a->json, "Print one JSON object");
  add_value(c, "--report", a->report, "FILE",
            "Writes the result as a page with pictures, too (see switchyard report)");
  add_choice(c, "--routing", a->routing, {"random", "balanced", "zipf", "hot"},
             "CUDA: which experts tokens choose; random: top-k of random logits");
  c.add_flag("--routed-only", a->routed_only, "CUDA: leave out shared experts");
  c.add_flag("--tune", a->tune,
             "CUDA: in place of layers the experts' two grouped GEMMs, in every configuration that "
             "can do them; --repeat is 9 then");
  add_value(c, "--out", a->out, "FILE",
            "With --tune: a table of the configurations that are better than the rule's");
  add_value(c, "--commit", a->commit, "HASH", "CUDA: what was built, for the JSON");
  c.footer(
      "Example:\n  switchyard bench --preset olmoe-1b-7b --tokens 1,32,512\n"
      "  switchyard bench --preset olmoe-1b-7b --device cuda --strategy all\n"
      "  switchyard bench --preset olmoe-1b-7b --device cuda --ranks 2\n"
      "  switchyard bench --linear-attention --device cuda\n"
      "  switchyard bench --preset olmoe-1b-7b --device cuda --tune --out table.txt\n"
      "  switchyard bench --preset olmoe-1b-7b --report bench.html");
  return [a] { return bench(*a); };
}

}  // namespace switchyard::cli
