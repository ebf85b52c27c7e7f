// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/explain_command.cc -- switchyard explain: every strategy, every condition, the value it saw,
// and what it takes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "commands.h"
#include "layer_options.h"
#include "measure_strategies.h"
#include "ranks.h"
#include "switchyard/communicator.h"
#include "switchyard/strategy.h"

namespace switchyard::cli {
namespace {

struct ExplainArguments {
  const CLI::App* command = nullptr;
  LayerSource source;
  RunOptions run;
  int64_t tokens = 4096;
  int64_t slots = 0;  // weight slots of a placement; 0: none
  bool low_latency = false;
  bool measure = false;
  int repeat = 20;  // with measure
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

// What explain knows in the end.
struct Explanation {
  StrategyRequest request;
  int64_t rank_bytes = 0;  // of weights
  std::vector<Strategy> all{};
  std::vector<MeasuredStrategy> measured{};  // of each of all, or empty
  Strategy choice{};
  std::string error{};                  // why no strategy was chosen
  std::vector<GemmCandidates> gemms{};  // of the experts, on CUDA

  const MeasuredStrategy* time_of(const Strategy& s) const {
    return measured.empty() ? nullptr : &measured[static_cast<size_t>(&s - all.data())];
  }
  // Infinite where it was not timed.
  double measured_us(const Strategy& s) const {
    const MeasuredStrategy* time = time_of(s);
    return time != nullptr && time->is_timed() ? time->us : std::numeric_limits<double>::infinity();
  }
  // The first of equals; nullptr where nothing was timed.
  const Strategy* fastest() const {
    const auto us = [this](const Strategy& s) { return measured_us(s); };
    const auto best = std::ranges::min_element(all, {}, us);
    return best != all.end() && std::isfinite(us(*best)) ? &*best : nullptr;
  }
  const Strategy* chosen() const {
    const auto at = std::ranges::find(all, choice.name, &Strategy::name);
    return error.empty() && at != all.end() ? &*at : nullptr;
  }
};

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

nlohmann::json json_of(const MeasuredStrategy& m, double predicted_us) {
  nlohmann::json json = {{"failed", m.is_wrong}, {"problem", m.problem}};
  for (const char* number :
       {"measured_us", "us_min", "us_max", "ratio", "rel_error", "operations", "kernels"})
    json[number] = nullptr;
  if (m.is_timed()) {
    json["measured_us"] = m.us;
    json["us_min"] = m.min_us;
    json["us_max"] = m.max_us;
    json["operations"] = m.num_operations;
    json["kernels"] = m.num_kernels;
    json["ratio"] = m.us / predicted_us;
  }
  if (m.is_timed() || m.is_wrong) json["rel_error"] = m.rel_error;
  return json;
}

nlohmann::json json_of(const std::vector<GemmCandidates>& gemms) {
  nlohmann::json all = nlohmann::json::array();
  for (const GemmCandidates& g : gemms)
    all.push_back({{"experts", g.num_experts},
                   {"n", g.n},
                   {"k", g.k},
                   {"rows", g.rows},
                   {"gated", g.gated},
                   {"configs", g.configs},
                   {"by_rule", g.by_rule},
                   {"chosen", g.chosen}});
  return all;
}

void print_json(const Explanation& e, const ExplainArguments& a) {
  const auto& [request, rank_bytes, all, measured, choice, error, gemms] = e;
  nlohmann::json strategies = nlohmann::json::array(), names = nlohmann::json::array();
  for (const auto& s : all) {
    strategies.push_back(json_of(s));
    if (const auto* time = e.time_of(s)) strategies.back().update(json_of(*time, s.predicted_us));
  }
  for (const auto& n : strategy_names())
    names.push_back({{"name", n.name}, {"means", n.canonical}, {"kind", n.kind}, {"note", n.note}});
  nlohmann::json json = {{"chosen", error.empty() ? nlohmann::json(choice.name) : nlohmann::json()},
                         {"reason", error.empty() ? choice.reason : error},
                         {"experts", dtype_name(request.experts)},
                         {"weight_bytes", rank_bytes},
                         {"strategies", strategies},
                         {"gemms", json_of(gemms)},
                         {"names", names}};
  if (!measured.empty()) {
    const Strategy* best = e.fastest();
    json["fastest"] = best != nullptr ? nlohmann::json(best->name) : nlohmann::json();
    json["measured"] = {{"tokens", a.tokens}, {"repeat", a.repeat}, {"routing", "random"}};
  }
  say_json(json);
}

std::string ratio_text(const MeasuredStrategy& m, const Strategy& s) {
  return fmt::format("{:.2f}x", m.us / s.predicted_us);
}

void print_strategy(const Explanation& e, const Strategy& s) {
  say("\n{}: {}{}\n", s.name, s.holds() ? "can run" : "cannot run",
      s.opt_in ? ", by name only (opt-in)" : "");
  if (s.workspace_bytes >= 0)
    say("  workspace {}, predicted {:.0f} us, GEMMs by {}\n", human_bytes(s.workspace_bytes),
        s.predicted_us, provider_name(s.provider));
  if (const auto* m = e.time_of(s); m != nullptr && m->is_timed())
    say("  measured {:.1f} us, {} of what is predicted, relative error {:.1e}\n", m->us,
        ratio_text(*m, s), m->rel_error);
  else if (m != nullptr && s.holds())
    say("  not measured: {}\n", m->problem);
  if (s.token_pieces > 1)
    say("  tokens in {} pieces: one travels while another is computed\n", s.token_pieces);
  if (const auto how = describe_travel(s); !how.empty()) say("  rows travel {}\n", how);
  if (!s.gemms.empty()) say("  tiles {}\n", s.gemms);
  for (const auto& c : s.conditions)
    say("  {}  {}\n", c.holds ? painted(Mood::Good, "ok") + "   " : painted(Mood::Bad, "FAILS"),
        c.text);
}

// What the chosen strategy is made of.
void print_chosen(const Strategy& s) {
  if (s.token_pieces > 1)
    say("pieces  {}: one travels while another is computed\n", s.token_pieces);
  if (const auto how = describe_travel(s); !how.empty()) say("rows    {}\n", how);
  if (!s.gemms.empty()) say("tiles   {}\n", s.gemms);
}

std::string remark(const Strategy& s, const Strategy* chosen) {
  return &s == chosen ? "chosen" : s.opt_in ? "by name only" : "";
}

// The strategies that can run, the fastest first.
void print_summary(const Explanation& e) {
  const auto& all = e.all;
  const Strategy* chosen = e.chosen();
  constexpr size_t kShown = 8;  // with the rest, a screen of 24 lines
  std::vector<const Strategy*> runnable;
  for (const auto& s : all)
    if (s.holds()) runnable.push_back(&s);
  std::ranges::stable_sort(runnable, {}, &Strategy::predicted_us);
  Table table({"<  can run", "predicted us", "workspace", "<"});
  const size_t shown = std::min(runnable.size(), kShown);
  for (const Strategy* s : std::span(runnable).first(shown))
    table.add({"  " + s->name, fmt::format("{:.0f}", s->predicted_us),
               human_bytes(s->workspace_bytes), remark(*s, chosen)});
  if (shown > 0) say("\n{}", table.text());
  say("\n{} more can run, {} cannot; --all shows every condition and name\n",
      runnable.size() - shown, all.size() - runnable.size());
}

// Each candidate with its times, the fastest first, or why it has none.
void print_measured(const Explanation& e) {
  std::vector<const Strategy*> order;
  for (const auto& s : e.all) order.push_back(&s);
  std::ranges::stable_sort(order, {}, [&](const Strategy* s) { return e.measured_us(*s); });
  Table table({"<  measured", "predicted us", "measured us", "ratio", "workspace", "<"});
  for (const Strategy* s : order)
    if (const auto* m = e.time_of(*s); m->is_timed())
      table.add({"  " + s->name, fmt::format("{:.1f}", s->predicted_us),
                 fmt::format("{:.1f}", m->us), ratio_text(*m, *s), human_bytes(s->workspace_bytes),
                 remark(*s, e.chosen())});
  if (e.fastest() != nullptr) say("\n{}", table.text());
  if (std::ranges::all_of(e.measured, &MeasuredStrategy::is_timed)) return;
  // The width of names, so that reasons stand below each other.
  size_t width = 0;
  for (const Strategy* s : order) width = std::max(width, s->name.size());
  say("\n  {:<{}}  why\n", "not measured", width);
  for (const Strategy* s : order)
    if (const auto* m = e.time_of(*s); !m->is_timed())
      say("  {:<{}}  {}{}\n", s->name, width, m->is_wrong ? "FAILED, " : "", m->problem);
}

// Whether the choice is what this machine does fastest.
std::string verdict(const Explanation& e) {
  const Strategy *best = e.fastest(), *chosen = e.chosen();
  if (best == nullptr) return "none: nothing could be measured";
  const MeasuredStrategy& first = *e.time_of(*best);
  const std::string text = fmt::format("{}, {:.1f} us", best->name, first.us);
  if (chosen == nullptr) return text + ": not the chosen one, since none is";
  if (chosen == best) return text + ": the chosen one";
  const MeasuredStrategy& other = *e.time_of(*chosen);
  if (!other.is_timed())
    return fmt::format("{}: not the chosen one, {}, which was not measured", text, chosen->name);
  return fmt::format("{}: not the chosen one, {}, which takes {:.1f} us, {:.1f} % more{}", text,
                     chosen->name, other.us, 100 * (other.us / first.us - 1),
                     other.min_us <= first.max_us ? "; their runs overlap" : "");
}

void print_gemms(const std::vector<GemmCandidates>& gemms) {
  for (size_t i = 0; i < gemms.size(); ++i) {
    const GemmCandidates& g = gemms[i];
    say("\nconfigurations that --gemm{} takes, for {} x {} of {} experts, at most {} rows:\n",
        i + 1, g.n, g.k, g.num_experts, g.rows);
    Table table({"<  configuration", "<"});
    for (const auto& config : g.configs)
      table.add({"  " + config, config == g.chosen    ? "chosen"
                                : config == g.by_rule ? "by rule"
                                                      : ""});
    say("{}", table.text());
  }
}

void print_names() {
  say("\nnames that --strategy takes:\n");
  Table table({"<  name", "<means", "<kind", "<note"});
  for (const auto& n : strategy_names()) table.add({"  " + n.name, n.canonical, n.kind, n.note});
  say("{}", table.text());
}

// Before anything is read.
void check_measuring(const ExplainArguments& a) {
  if (!a.measure) return refuse_unused(*a.command, {"--repeat"}, "--measure");
  const bool cuda = device_from(a.run.device) == DeviceKind::Cuda;
  require_usage(launched_by().empty(),
                "explain: --measure, the environment says that this process is one of several, and "
                "each would time the others. Start it once, its ranks are threads");
  require_usage(a.slots == 0,
                "--slots={}, is for layers that are not measured. Leave out --measure", a.slots);
  require_usage(a.tokens > 0, "--tokens=0, need 1 or more with --measure");
  require_usage(a.run.ranks <= kMostThreadRanks, "--ranks={}, need at most {} with --measure",
                a.run.ranks, kMostThreadRanks);
  require_usage(!cuda || a.repeat >= 20,
                "--repeat={}, need at least 20 for --measure with --device cuda", a.repeat);
  a.run.require_even_groups();
}

std::vector<MeasuredStrategy> measure(const ExplainArguments& a,
                                      const std::vector<Strategy>& candidates) {
  BenchArguments bench;
  bench.source = a.source;
  bench.run = a.run;
  bench.tokens = {a.tokens};
  bench.repeat = a.repeat;
  bench.routed_only = true;  // as predictions are
  return measure_strategies(bench, candidates);
}

int explain(ExplainArguments& a) {
  a.run.require_used();
  check_measuring(a);
  require_usage(a.source.given(), "need either --model DIR --layer N or --preset NAME");
  a.source.open();
  const int64_t num_experts = a.source.config().num_experts;
  require_usage(a.slots == 0 || (a.slots >= num_experts && a.slots % a.run.ranks == 0),
                "--slots={}, need a multiple of the {} ranks, {} experts or more", a.slots,
                a.run.ranks, num_experts);
  Explanation e{.request = request_of(a)};
  const auto& [request, rank_bytes, all, measured, choice, error, gemms] = e;
  if (request.device.kind == DeviceKind::Cuda) {
    const auto of_experts = gemm_candidates(request);
    e.gemms.assign(of_experts.begin(), of_experts.end());
  }
  e.all = evaluate_strategies(request);
  try {
    e.choice = choose_strategy(request);
  } catch (const Error& refusal) {
    e.error = refusal.what();
  }
  ExpertFormat format = a.source.expert_format();
  format.num_slots = a.slots / a.run.ranks;
  e.rank_bytes = weight_bytes(a.source.config(), request.num_ranks, format);
  if (a.measure) e.measured = measure(a, all);
  const bool wrong = std::ranges::any_of(measured, &MeasuredStrategy::is_wrong);
  const int code = error.empty() && !wrong ? kGood : kFailed;
  if (a.json) {
    print_json(e, a);
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
  if (const Strategy* chosen = e.chosen(); chosen != nullptr && !a.all) print_chosen(*chosen);
  if (a.measure)
    say("timed   experts, dispatch and combine of {} tokens a rank, random routing, medians of "
        "{}\n",
        a.tokens, a.repeat);
  if (a.all)
    for (const auto& s : all) print_strategy(e, s);
  if (a.measure) {
    print_measured(e);
    say("\nfastest {}\n", verdict(e));
  }
  if (a.all) {
    print_gemms(gemms);
    print_names();
  }
  if (!a.all && !a.measure) print_summary(e);
  return code;
}

}  // namespace

Command add_explain(CLI::App& app) {
  auto a = std::make_shared<ExplainArguments>();
  auto& c = *app.add_subcommand(
      "explain",
      "Show the choice, what else can run, and with --all every condition with what it saw");
  a->command = &c;
  a->source.add_options(c);
  a->run.add_options(c, kMostRanks);
  add_number(c, "--tokens,--max-tokens", a->tokens, {0, kMostTokens}, "T",
             "Capacity: tokens of a rank in one call");
  add_number(c, "--slots", a->slots, {0, kMaxExperts}, "S",
             "Weight slots over all ranks, of a layer with a placement; 0: experts in their order");
  c.add_flag("--low-latency,--use_deepep_low_latency", a->low_latency,
             "Ask for the low-latency dispatcher");
  c.add_flag("--measure", a->measure,
             "Run every strategy that this machine can, with random rows and routing and without "
             "shared experts, and show its time beside the predicted one");
  add_number(c, "--repeat", a->repeat, {1, 1'000'000}, "N",
             "With --measure: runs whose median is shown; on CUDA 20 or more");
  c.add_flag("--all", a->all, "Every strategy with every condition, and every name");
  c.add_flag("--json", a->json, "Print one JSON object, with all of it");
  c.footer(
      "Example:\n  switchyard explain --preset deepseek-v3 --ranks 8 --tokens 128\n"
      "  switchyard explain --preset olmoe-1b-7b --tokens 32 --measure");
  return [a] { return explain(*a); };
}

}  // namespace switchyard::cli
