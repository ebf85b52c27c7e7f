// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/explain_command.cc -- switchyard explain: every strategy, every condition, the value it saw.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "commands.h"
#include "layer_options.h"
#include "switchyard/communicator.h"
#include "switchyard/strategy.h"

namespace switchyard::cli {
namespace {

struct ExplainArguments {
  LayerSource source;
  RunOptions run;
  int64_t tokens = 4096;
  int64_t slots = 0;  // weight slots of a placement; 0: none
  bool low_latency = false;
  bool all = false;
  bool json = false;
};

StrategyRequest request_of(const ExplainArguments& a) {
  StrategyRequest r;
  static_cast<PlanOptions&>(r) = a.run.layer;
  r.max_tokens = a.tokens;
  r.config = a.source.config();
  if (a.slots > 0) {  // which know no groups of experts
    r.config.num_experts = a.slots;
    r.config.gate.num_groups = r.config.gate.num_groups_kept = 1;
  }
  r.experts = a.source.expert_format().dtype;
  r.num_ranks = a.run.ranks;
  r.use_low_latency = a.low_latency;
  r.has_nccl = has_nccl();
  r.device = describe_device(a.run.device == "cuda" ? DeviceKind::Cuda : DeviceKind::Cpu);
  return r;
}

nlohmann::json json_of(const Strategy& s) {
  nlohmann::json conditions = nlohmann::json::array();
  for (const auto& c : s.conditions) conditions.push_back({{"text", c.text}, {"holds", c.holds}});
  return {{"name", s.name},
          {"provider", provider_name(s.provider)},
          {"holds", s.holds()},
          {"opt_in", s.opt_in},
          {"workspace_bytes", s.workspace_bytes},
          {"predicted_us", s.predicted_us},
          {"token_pieces", s.token_pieces},
          {"fetch_rows", s.fetch_rows},
          {"gemms", s.gemms},
          {"carrier", s.carrier},
          {"rows", dtype_name(s.rows)},
          {"conditions", conditions}};
}

// `error`: why no strategy was chosen.
void print_json(const StrategyRequest& request, int64_t rank_bytes,
                const std::vector<Strategy>& all, const Strategy& choice,
                const std::string& error) {
  nlohmann::json strategies = nlohmann::json::array(), names = nlohmann::json::array();
  for (const auto& s : all) strategies.push_back(json_of(s));
  for (const auto& n : strategy_names())
    names.push_back({{"name", n.name}, {"means", n.canonical}, {"kind", n.kind}, {"note", n.note}});
  const nlohmann::json json = {
      {"chosen", error.empty() ? nlohmann::json(choice.name) : nlohmann::json()},
      {"reason", error.empty() ? choice.reason : error},
      {"experts", dtype_name(request.experts)},
      {"weight_bytes", rank_bytes},
      {"strategies", strategies},
      {"names", names}};
  say_json(json);
}

void print_strategy(const Strategy& s) {
  say("\n{}: {}{}\n", s.name, s.holds() ? "can run" : "cannot run",
      s.opt_in ? ", by name only (opt-in)" : "");
  if (s.workspace_bytes >= 0)
    say("  workspace {}, predicted {:.0f} us, GEMMs by {}\n", human_bytes(s.workspace_bytes),
        s.predicted_us, provider_name(s.provider));
  if (s.token_pieces > 1)
    say("  tokens in {} pieces: one travels while another is computed\n", s.token_pieces);
  if (const auto how = describe_travel(s); !how.empty()) say("  rows travel {}\n", how);
  if (!s.gemms.empty()) say("  tiles {}\n", s.gemms);
  for (const auto& c : s.conditions)
    say("  {}  {}\n", c.holds ? painted(Mood::Good, "ok") + "   " : painted(Mood::Bad, "FAILS"),
        c.text);
}

// The strategies that can run, the fastest first, and what the chosen one is made of.
void print_summary(const std::vector<Strategy>& all, const std::string& chosen) {
  constexpr size_t kShown = 8;  // with the rest, a screen of 24 lines
  std::vector<const Strategy*> runnable;
  for (const auto& s : all)
    if (s.holds()) runnable.push_back(&s);
  std::ranges::stable_sort(runnable, {}, &Strategy::predicted_us);
  if (const auto s = std::ranges::find(all, chosen, &Strategy::name); s != all.end()) {
    if (s->token_pieces > 1)
      say("pieces  {}: one travels while another is computed\n", s->token_pieces);
    if (const auto how = describe_travel(*s); !how.empty()) say("rows    {}\n", how);
    if (!s->gemms.empty()) say("tiles   {}\n", s->gemms);
  }
  Table table({"<  can run", "predicted us", "workspace", "<"});
  const size_t shown = std::min(runnable.size(), kShown);
  for (const Strategy* s : std::span(runnable).first(shown))
    table.add({"  " + s->name, fmt::format("{:.0f}", s->predicted_us),
               human_bytes(s->workspace_bytes),
               s->name == chosen ? "chosen"
               : s->opt_in       ? "by name only"
                                 : ""});
  if (shown > 0) say("\n{}", table.text());
  say("\n{} more can run, {} cannot; --all shows every condition and name\n",
      runnable.size() - shown, all.size() - runnable.size());
}

void print_names() {
  say("\nnames that --strategy takes:\n");
  Table table({"<  name", "<means", "<kind", "<note"});
  for (const auto& n : strategy_names()) table.add({"  " + n.name, n.canonical, n.kind, n.note});
  say("{}", table.text());
}

int explain(ExplainArguments& a) {
  a.run.require_used();
  require_usage(a.source.given(), "need either --model DIR --layer N or --preset NAME");
  a.source.open();
  const int64_t num_experts = a.source.config().num_experts;
  require_usage(a.slots == 0 || (a.slots >= num_experts && a.slots % a.run.ranks == 0),
                "--slots={}, need a multiple of the {} ranks, {} experts or more", a.slots,
                a.run.ranks, num_experts);
  const auto request = request_of(a);
  const auto all = evaluate_strategies(request);
  Strategy choice;
  std::string error;
  try {
    choice = choose_strategy(request);
  } catch (const Error& e) {
    error = e.what();
  }
  const int code = error.empty() ? kGood : kFailed;
  ExpertFormat format = a.source.expert_format();
  format.num_slots = a.slots / a.run.ranks;
  const int64_t rank_bytes = weight_bytes(a.source.config(), request.num_ranks, format);
  if (a.json) {
    print_json(request, rank_bytes, all, choice, error);
    return code;
  }
  say("layer   {}, {}, {} a rank\n        {}\ndevice  {} ({}){}\nranks   {}, tp {}, "
      "at most {} tokens a rank\n",
      a.source.name(), dtype_name(request.experts), human_bytes(rank_bytes),
      describe(a.source.config()), a.run.device, request.device.name,
      request.device.available ? "" : ", not here: times are predicted for an H100", a.run.ranks,
      a.run.layer.tp_size, a.tokens);
  if (a.slots > 0) say("slots   {}, {} a rank\n", a.slots, format.num_slots);
  if (error.empty())
    say("chosen  {}: {}\n", choice.name, choice.reason);
  else
    say("chosen  none: {}\n", error);
  for (const auto& warning : choice.warnings) say("note    {}\n", warning);
  if (!a.all) {
    print_summary(all, choice.name);
    return code;
  }
  for (const auto& s : all) print_strategy(s);
  print_names();
  return code;
}

}  // namespace

Command add_explain(CLI::App& app) {
  auto a = std::make_shared<ExplainArguments>();
  auto& c = *app.add_subcommand(
      "explain",
      "Show the choice, what else can run, and with --all every condition with what it saw");
  a->source.add_options(c);
  a->run.add_options(c, kMostRanks);
  add_number(c, "--tokens,--max-tokens", a->tokens, {0, kMostTokens}, "T",
             "Capacity: tokens of a rank in one call");
  add_number(c, "--slots", a->slots, {0, kMaxExperts}, "S",
             "Weight slots over all ranks, of a layer with a placement; 0: experts in their order");
  c.add_flag("--low-latency,--use_deepep_low_latency", a->low_latency,
             "Ask for the low-latency dispatcher");
  c.add_flag("--all", a->all, "Every strategy with every condition, and every name");
  c.add_flag("--json", a->json, "Print one JSON object, with all of it");
  c.footer("Example:\n  switchyard explain --preset deepseek-v3 --ranks 8 --tokens 128");
  return [a] { return explain(*a); };
}

}  // namespace switchyard::cli
