// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/run_command.cc -- switchyard run: one MoE block on real or random rows, over ranks.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "device.h"
#include "layer_options.h"
#include "ranks.h"
#include "routing.h"
#include "switchyard/oracle.h"
#include "switchyard/safetensors.h"

namespace switchyard::cli {
namespace {

struct RunArguments {
  const CLI::App* command = nullptr;
  LayerSource source;
  RunOptions run;
  std::string transport;
  std::string input, input_tensor, token_ids_tensor, expect, expect_tensor, output,
      output_dtype = "bf16";
  int64_t tokens = 64;
  uint64_t seed = 0;
  int64_t max_tokens = -1;
  int repeat = 3;
  double tolerance = 4e-3;
  std::string placement;  // a file
  int64_t placement_layer = -1;
  bool json = false;
};

// What goes into the layer.
struct Input {
  Rows rows;
  std::vector<int64_t> token_ids;  // of a layer that chooses by them; empty for others
};

struct RunResult {
  Rows output;
  Strategy strategy;
  ForwardReport report;
  std::vector<int64_t> expert_counts;
  double time_us = 0;
  std::optional<Difference> difference{};  // from the expected output
  bool good = true;
};

void check_usage(const RunArguments& a) {
  a.run.require_even_groups();
  a.run.require_used();
  const CLI::App& c = *a.command;
  require_usage(a.expect.empty() || !a.input.empty(),
                "--expect needs --input: random rows have no expected output");
  if (a.input.empty())
    refuse_unused(c, {"--input-tensor", "--token-ids-tensor"}, "rows of --input");
  else
    refuse_unused(c, {"--tokens", "--seed"}, "random rows, without --input");
  if (a.expect.empty()) refuse_unused(c, {"--expect-tensor", "--tolerance"}, "--expect");
  if (a.output.empty()) refuse_unused(c, {"--output-dtype"}, "--output");
  if (a.placement.empty()) refuse_unused(c, {"--placement-layer"}, "--placement");
}

// Before a long run, by the process that writes.
void check_output(const RunArguments& a) {
  if (a.output.empty()) return;
  check_safetensors_target(a.output);
  refuse_same_file(a.output, a.input, "--input");
  refuse_same_file(a.output, a.expect, "--expect");
  a.source.refuse_as_output(a.output);
}

// The tensor that was named, or the one that oracle files call by the layer's module path.
std::string tensor_name(const std::string& given, const LayerSource& source, const char* suffix,
                        const char* option) {
  if (!given.empty()) return given;
  require_usage(!source.module_path().empty(), "{} is missing", option);
  return source.module_path() + suffix;
}

Input read_input(const RunArguments& a) {
  const MoeConfig& config = a.source.config();
  const int64_t vocabulary = config.gate.vocabulary;
  require_usage(a.token_ids_tensor.empty() || vocabulary > 0,
                "--token-ids-tensor: this layer chooses by scores");
  if (a.input.empty()) {
    const double bytes = 2.0 * static_cast<double>(a.tokens) * static_cast<double>(config.hidden);
    const double all = describe_device(DeviceKind::Cpu).memory_bytes;
    require_usage(bytes <= all, "--tokens={}, rows take {}, this machine has {}", a.tokens,
                  human_bytes(bytes), human_bytes(all));
    const int64_t num_ids = vocabulary > 0 ? a.tokens : 0;
    return {random_rows(a.tokens, config.hidden, a.seed),
            random_token_ids(num_ids, vocabulary, a.seed)};
  }
  const auto file = TensorFile::open(a.input);
  Input input{read_rows(*file, tensor_name(a.input_tensor, a.source, ".input", "--input-tensor"),
                        config.hidden),
              {}};
  if (vocabulary > 0)
    input.token_ids = read_token_ids(
        *file, tensor_name(a.token_ids_tensor, a.source, ".input_ids", "--token-ids-tensor"),
        input.rows.num_rows());
  return input;
}

struct Expected {
  std::shared_ptr<const TensorFile> file;  // keeps the view alive
  ConstTensor rows;
};

Expected read_expected(const RunArguments& a, int64_t num_tokens) {
  if (a.expect.empty()) return {};
  Expected e{TensorFile::open(a.expect), {}};
  const auto name = tensor_name(a.expect_tensor, a.source, ".output_fp64", "--expect-tensor");
  e.rows = e.file->tensor(name);
  const Shape wanted{num_tokens, a.source.config().hidden};
  const bool real =
      e.rows.dtype == DType::F64 || e.rows.dtype == DType::F32 || e.rows.dtype == DType::Bf16;
  require_usage(e.rows.shape == wanted && real,
                "--expect: tensor {} in {} is no bf16, f32 or f64 [{}, {}]", name, a.expect,
                wanted[0], wanted[1]);
  require_usage(num_tokens > 0, "--expect={}, the input has no rows: nothing would be compared",
                a.expect);
  return e;
}

// Of this rank's tokens. Zero experts have no tokens of their own.
std::vector<int64_t> count_experts(MoeLayer& layer, ConstTensor hidden, ConstTensor token_ids,
                                   Backend& backend) {
  const Shape slots{hidden.dim(0), layer.config().top_k};
  const DeviceBuffer chosen(backend, hidden.device, DType::I32, slots);
  const DeviceBuffer weights(backend, hidden.device, DType::F32, slots);
  const int64_t num_scored = layer.config().shared.num_scored;
  const DeviceBuffer shared(backend, hidden.device, DType::F32, {hidden.dim(0), num_scored});
  const size_t bytes = layer.gate().workspace_bytes(hidden.dim(0));
  const auto workspace = allocate(backend, bytes);
  layer.gate().choose({.ids = chosen.view(),
                       .weights = weights.view(),
                       .shared_weights = num_scored > 0 ? shared.view() : Tensor(),
                       .token_ids = token_ids},
                      hidden, {workspace.get(), bytes}, nullptr);
  std::vector<int32_t> ids(slots.count());
  chosen.copy_to(ids.data());
  std::vector<int64_t> counts(layer.config().num_experts);
  for (const int32_t id : ids)
    if (id >= 0 && id < layer.config().num_experts) ++counts[id];
  return counts;
}

// Collective. The sum over groups.
std::vector<int64_t> gather_counts(Communicator& comm, const Shares& shares,
                                   const std::vector<int64_t>& counts) {
  const auto num_experts = static_cast<int64_t>(counts.size());
  std::vector<int64_t> all(counts.size() * static_cast<size_t>(comm.size())), sum(counts.size());
  comm.all_gather(Tensor(all.data(), {comm.size(), num_experts}),
                  ConstTensor(counts.data(), {num_experts}), nullptr);
  for (size_t i = 0; i < all.size(); ++i)
    if (shares.is_first_of_group(static_cast<int>(i / counts.size())))
      sum[i % counts.size()] += all[i];
  return sum;
}

// Ranks whose experts each rank has in memory at first: with a placement all, of which it takes its
// slots'.
int ranks_that_share(const RunArguments& a, int num_ranks) {
  return a.run.layer.placement.empty() ? num_ranks : 1;
}

// This rank's weights on the host.
LayerWeights host_weights(const RunArguments& a, int num_ranks, int rank,
                          const Progress& progress) {
  const std::span<const int32_t> slots = a.run.layer.placement;
  if (slots.empty()) return a.source.weights(num_ranks, rank, progress);
  const size_t each = slots.size() / static_cast<size_t>(num_ranks);
  return weights_of_slots(a.source.weights(1, 0, progress),
                          slots.subspan(static_cast<size_t>(rank) * each, each));
}

// This rank's weights, on the device.
LayerWeights load_weights(const RunArguments& a, int num_ranks, int rank,
                          const LayerOptions& options) {
  const MoeConfig& config = a.source.config();
  const auto bytes =
      human_bytes(weight_bytes(config, ranks_that_share(a, num_ranks), a.source.expert_format()));
  const auto progress = [&](const char* doing) {
    return rank == 0 ? progress_on_terminal(fmt::format("{} {} of weights", doing, bytes))
                     : Progress{};
  };
  const bool random = a.source.has_random_weights();
  std::optional<Waiting> waiting;
  if (random && rank == 0) waiting.emplace(fmt::format("making {} of random weights", bytes));
  const auto host = host_weights(a, num_ranks, rank, random ? Progress{} : progress("loading"));
  waiting.reset();
  return place_weights(host, config, num_ranks, options, *options.backend,
                       progress("copying to the device"));
}

// This rank's share; none where there are none.
ConstTensor token_ids_of(const Input& input, const Shares& shares, int rank) {
  const auto all = static_cast<int64_t>(input.token_ids.size());
  const ConstTensor ids(input.token_ids.data(), {all});
  return all == 0 ? ids : ids.rows(shares.begin(rank), shares.size(rank));
}

// Collective. Runs this rank's share; every rank knows the whole result.
RunResult run_rank(const RunArguments& a, Communicator& comm, const Ranks& ranks,
                   const Shares& shares, const Input& input, int64_t max_tokens) {
  const int rank = comm.rank();
  LayerOptions options = a.run.layer_options(max_tokens);
  options.backend = make_backend(options, ranks.num_on_machine(), ranks.local(rank));
  Backend& backend = *options.backend;
  const auto stream = comm.size() > 1 ? make_stream(backend) : nullptr;
  const auto layer = MoeLayer::create(a.source.config(),
                                      load_weights(a, comm.size(), rank, options), comm, options);
  const DeviceBuffer hidden(backend, options.device,
                            input.rows.view().rows(shares.begin(rank), shares.size(rank)));
  const DeviceBuffer token_ids(backend, options.device, token_ids_of(input, shares, rank));
  const DeviceBuffer written(backend, options.device, DType::Bf16, hidden.view().shape);
  const ConstTensor given = input.token_ids.empty() ? ConstTensor() : token_ids.view();
  const auto counts = count_experts(*layer, hidden.view(), given, backend);
  meet(comm);
  ForwardReport report;
  std::vector<double> us;
  const auto progress = rank == 0 ? progress_on_terminal("running") : Progress{};
  for (int i = 0; i <= a.repeat; ++i) {  // the first one warms up
    const auto start = std::chrono::steady_clock::now();
    report = layer->forward({.output = written.view(),
                             .hidden = hidden.view(),
                             .token_ids = given,
                             .stream = stream.get()});
    layer->wait(stream.get());
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
                     .count());
    if (progress) progress(i, a.repeat);
  }
  us.erase(us.begin());
  const auto median = us.begin() + static_cast<int64_t>(us.size() / 2);  // the upper one of two
  std::nth_element(us.begin(), median, us.end());
  Rows output(shares.largest(), input.rows.hidden());
  written.copy_to(output.view().data);
  return {shares.gather(comm, output), layer->strategy(), report,
          gather_counts(comm, shares, counts), *median};
}

// The whole result, where rank 0 lives.
std::optional<RunResult> execute(const RunArguments& a, const Ranks& ranks, const Input& input) {
  const Shares shares(input.rows.num_rows(), ranks.size() / a.run.layer.tp_size,
                      a.run.layer.tp_size);
  const int64_t max_tokens = a.max_tokens >= 0 ? a.max_tokens : shares.largest();
  require_usage(max_tokens >= shares.largest(), "--max-tokens={}, a rank has {} tokens", max_tokens,
                shares.largest());
  LayerOptions options = a.run.layer_options(max_tokens);
  options.experts = a.source.expert_format().dtype;
  a.source.check_memory(ranks_that_share(a, ranks.size()), ranks.num_on_machine(),
                        MoeLayer::workspace_bytes(a.source.config(), ranks.size(), options),
                        device_from(a.run.device));
  std::optional<RunResult> result;
  ranks.run([&](Communicator& comm) {
    auto mine = run_rank(a, comm, ranks, shares, input, max_tokens);
    if (comm.rank() == 0) result = std::move(mine);
  });
  return result;
}

void write_output(const RunArguments& a, const Rows& output) {
  if (a.output.empty()) return;
  std::vector<float> wide;
  ConstTensor tensor = output.view();
  if (a.output_dtype == "f32") {
    for (int64_t i = 0; i < tensor.count(); ++i)
      wide.push_back(static_cast<float>(tensor.as<Bf16>()[i]));
    tensor = ConstTensor(std::as_const(wide).data(), tensor.shape);
  }
  const NamedTensor named{"output", tensor};
  write_safetensors(a.output, {&named, 1});
}

void print_json(const RunArguments& a, const RunResult& r) {
  const auto error = [&](double Difference::*which) {
    const bool known = r.difference && std::isfinite(*r.difference.*which);
    return known ? nlohmann::json(*r.difference.*which) : nlohmann::json(nullptr);
  };
  const nlohmann::json json = {
      {"strategy", r.strategy.name},
      {"reason", r.strategy.reason},
      {"layout", layout_name(r.report.layout)},
      {"ranks", a.run.ranks},
      {"transport", a.transport},
      {"carrier", r.strategy.carrier},
      {"rows", dtype_name(r.strategy.rows)},
      {"tokens", r.output.num_rows()},
      {"experts", a.source.config().num_experts},
      {"slots", a.run.layer.placement.size()},
      {"time_us", r.time_us},
      {"rel_error", error(&Difference::rel_error)},
      {"max_row_error", error(&Difference::max_row_error)},
      {"max_abs_error", error(&Difference::max_abs_error)},
      {"tolerance", a.tolerance},
      {"good", r.difference ? nlohmann::json(r.good) : nlohmann::json(nullptr)},
      {"expert_counts", r.expert_counts},
      {"device", a.run.device},
      {"layer", a.source.name()},
      {"stored", a.source.stored_format()},
  };
  say_json(json);
}

void print_text(const RunArguments& a, const RunResult& r) {
  say("layer     {}\n          {}\n", a.source.name(), describe(a.source.config()));
  const ExpertFormat& format = a.source.expert_format();
  say("weights   stored as {}, {} in memory{}\n", a.source.stored_format(),
      human_bytes(weight_bytes(a.source.config(), 1, format)),
      format.dtype == DType::Bf16 ? "" : fmt::format(", experts in {}", dtype_name(format.dtype)));
  if (const auto& slots = a.run.layer.placement; !slots.empty())
    say("slots     {}, {} on a rank, by {}\n", slots.size(),
        slots.size() / static_cast<size_t>(a.run.ranks), a.placement);
  say("strategy  {} ({})\n", r.strategy.name, r.strategy.reason);
  say("layout    {}\n", describe(r.report));
  say("ranks     {} on {}, {}\n", a.run.ranks, a.run.device, a.transport);
  if (const auto how = describe_travel(r.strategy); !how.empty()) say("rows      {}\n", how);
  say("tokens    {}\n", r.output.num_rows());
  say("experts   {}, tokens per expert:\n{}", a.source.config().num_experts,
      bar_chart(r.expert_counts, "expert", 12));
  say("time      {:.1f} us (median of {})\n", r.time_us, a.repeat);
  if (!a.output.empty()) say("output    {} ({})\n", a.output, a.output_dtype);
  if (r.difference)
    say("error     {:.3e} relative to the expected output, worst row {:.3e}: {} (tolerance {:g})\n",
        r.difference->rel_error, r.difference->max_row_error,
        r.good ? painted(Mood::Good, "good") : painted(Mood::Bad, "MISMATCH"), a.tolerance);
}

int run_on(RunArguments& a, const Ranks& ranks) {
  require_usage(a.run.ranks == 1 || a.run.ranks == ranks.size(),
                "--ranks={}, the launcher started {}", a.run.ranks, ranks.size());
  a.run.ranks = ranks.size();
  a.transport = ranks.transport();
  check_usage(a);
  device_from(a.run.device);
  a.source.open();
  if (!a.placement.empty()) a.run.layer.placement = slots_of_plan(a.placement, a.placement_layer);
  if (ranks.speaks()) check_output(a);
  const Input input = read_input(a);
  const Expected expected = ranks.speaks() ? read_expected(a, input.rows.num_rows()) : Expected{};
  auto result = execute(a, ranks, input);
  if (!result) return kGood;
  for (const auto& warning : result->strategy.warnings)
    std::fputs(fmt::format("switchyard: {}\n", warning).c_str(), stderr);

  if (expected.rows.present()) {
    const Difference d = compare(result->output.view(), expected.rows);
    // No row may be five times worse than the whole: a single wrong row hides in a relative error.
    result->good = d.rel_error <= a.tolerance && d.max_row_error <= 5 * a.tolerance;
    result->difference = d;
  }
  write_output(a, result->output);
  a.json ? print_json(a, *result) : print_text(a, *result);
  return result->good ? kGood : kFailed;
}

int run(RunArguments& a) {
  const Ranks ranks(a.transport, a.run.ranks);
  return ranks.exit_code_of([&] { return run_on(a, ranks); });
}

}  // namespace

Command add_run(CLI::App& app) {
  auto a = std::make_shared<RunArguments>();
  auto& c = *app.add_subcommand("run", "Run one MoE block (gate, experts, shared experts) on rows");
  a->command = &c;
  a->source.add_options(c);
  a->run.add_options(c);
  add_transport(c, a->transport);
  add_value(c, "--input", a->input, "FILE",
            "safetensors file with the input rows; without it, random rows");
  add_value(c, "--input-tensor", a->input_tensor, "NAME",
            "bf16 or f32 (then rounded) [T, H]; default: <module path>.input");
  add_value(c, "--token-ids-tensor", a->token_ids_tensor, "NAME",
            "i32 or i64 [T] in --input, of layers that choose by token id; default: <module "
            "path>.input_ids");
  add_value(c, "--expect", a->expect, "FILE", "safetensors file with the expected output");
  add_value(c, "--expect-tensor", a->expect_tensor, "NAME",
            "f64, f32 or bf16 [T, H]; default: <module path>.output_fp64");
  add_value(c, "--output", a->output, "FILE", "Writes tensor `output` to this safetensors file");
  add_choice(c, "--output-dtype", a->output_dtype, {"bf16", "f32"}, "Of --output");
  add_number(c, "--tokens", a->tokens, {0, kMostTokens}, "T", "Random rows without --input");
  add_number(c, "--seed", a->seed, {0, UINT64_MAX}, "N", "Of the random rows");
  add_number(c, "--max-tokens", a->max_tokens, {0, kMostTokens}, "T", "Capacity of a rank")
      ->default_str("its share");
  add_number(c, "--repeat", a->repeat, {1, 10'000'000}, "N", "Timed runs after one that warms up");
  add_number(c, "--tolerance", a->tolerance, {0, 1}, "X",
             "Relative L2 error that is still good; single rows may reach 5 times it");
  add_value(
      c, "--placement", a->placement, "FILE",
      "Experts are in the weight slots of this plan: what `switchyard plan --placement --json` "
      "prints");
  add_number(c, "--placement-layer", a->placement_layer, {0, INT32_MAX}, "N",
             "Which layer of the plan, from 0")
      ->default_str("its only one");
  c.add_flag("--json", a->json, "Print one JSON object");
  c.footer(
      "Example:\n  switchyard run --model data/tiny-code-moe --layer 1 --ranks 4 \\\n"
      "    --input data/tiny-code-moe/moe_io.safetensors --expect "
      "data/tiny-code-moe/moe_io.safetensors\n"
      "  mpirun --allow-run-as-root --oversubscribe -n 4 switchyard run --preset olmoe-1b-7b");
  return [a] { return run(*a); };
}

}  // namespace switchyard::cli
