// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/plan_command.cc -- switchyard plan: rows, bytes and times of a layer over many ranks, and
// where that stops scaling; or, with --placement, which rank holds which experts.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <exception>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "commands.h"
#include "layer_options.h"
#include "plan_placement.h"
#include "routing.h"
#include "switchyard/plan.h"

namespace switchyard {

// For JSON with the members' names as keys.
void to_json(nlohmann::json& json, PlanBound bound) {
  json = bound_name(bound);
}
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Spread, max, mean)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Traffic, nvlink_sent, nvlink_received, network_sent,
                                   network_received)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RowMove, us, meetings_us, bound, rows, bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ExpertTime, us, bound, rank, rows, slots, mean_slots,
                                   active_experts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DispatcherPlan, us, bound, dispatch, experts, combine)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ClusterRates, nvlink_gbps, network_gbps, nvlink_meeting_us,
                                   network_meeting_us, network_peer_us, gemm_tflops, read_gbps)

}  // namespace switchyard

namespace switchyard::cli {
namespace {

struct PlanArguments {
  LayerSource source;
  std::string ranks = "8..256", routing = "balanced";
  int nodes = 0;  // 0: as many as ranks_per_node asks for
  int ranks_per_node = 8;
  int64_t tokens = 4096;
  ClusterRates rates;
  PlacementArguments placement;
  const CLI::App* command = nullptr;
  bool json = false;

  int nodes_of(int num_ranks) const {
    return nodes > 0 ? nodes : (num_ranks - 1) / ranks_per_node + 1;
  }
};

// "8", "8,16,24", and "8..256": the powers of two in between, both ends included. Rising, each
// once.
std::set<int> rank_numbers(const std::string& text) {
  const auto number = [&](std::string_view word) {
    int value = 0;
    const auto [stop, error] = std::from_chars(word.begin(), word.end(), value);
    require_usage(error == std::errc() && stop == word.end() && value >= 1 && value <= kMostRanks,
                  "--ranks={}, need numbers from 1 to {}: 8, 8,16,32 or 8..256", text, kMostRanks);
    return value;
  };
  std::set<int> numbers;
  for (size_t begin = 0, end = 0; begin <= text.size(); begin = end + 1) {
    end = std::min(text.find(',', begin), text.size());
    const auto word = std::string_view(text).substr(begin, end - begin);
    const size_t dots = word.find("..");
    if (dots == std::string_view::npos) {
      numbers.insert(number(word));
      continue;
    }
    const int low = number(word.substr(0, dots)), high = number(word.substr(dots + 2));
    for (int p = 1; p <= high; p *= 2)
      if (p >= low) numbers.insert(p);
  }
  if (numbers.empty()) (void)number("");
  return numbers;
}

struct Planned {
  int ranks, nodes;
  RankPlan plan;
};

struct Plans {
  std::vector<Planned> planned;
  std::vector<std::pair<int, std::string>> skipped;  // ranks, why
};

// A number of ranks that cannot be is left out and named, unless no other is left.
Plans make_plans(const PlanArguments& a) {
  PlanRequest r;
  r.config = a.source.config();
  r.tokens = a.tokens;
  r.rates = a.rates;
  r.expert_counts = expert_counts(a.routing, r.config);
  Plans plans;
  std::exception_ptr first;
  for (const int ranks : rank_numbers(a.ranks)) {
    r.num_ranks = ranks;
    r.num_nodes = a.nodes_of(ranks);
    try {
      plans.planned.push_back({ranks, r.num_nodes, plan_ranks(r)});
    } catch (const Error& e) {
      if (e.code() == Errc::BadRouting)
        throw Error(Errc::BadFile, fmt::format("{} (--routing={})", e.what(), a.routing));
      if (!first) first = std::current_exception();
      plans.skipped.emplace_back(ranks, e.what());
    }
  }
  if (plans.planned.empty()) std::rethrow_exception(first);
  return plans;
}

// What moves rows, in the order of the tables.
struct Way {
  const char* name;
  DispatcherPlan RankPlan::*plan;
};
constexpr Way kWays[] = {{"normal", &RankPlan::normal},
                         {"two_level", &RankPlan::two_level},
                         {"all_gather", &RankPlan::all_gather}};

// The first of equals: on one node two levels are one.
const char* fastest(const RankPlan& plan) {
  const auto* best = std::min_element(std::begin(kWays), std::end(kWays), [&](auto& a, auto& b) {
    return (plan.*a.plan).us < (plan.*b.plan).us;
  });
  return best->name;
}

nlohmann::json json_of(const Planned& p) {
  nlohmann::json json = {{"ranks", p.ranks},
                         {"nodes", p.nodes},
                         {"ranks_per_token", p.plan.ranks_per_token},
                         {"remote_rows_per_token", p.plan.remote_rows_per_token},
                         {"remote_nodes_per_token", p.plan.remote_nodes_per_token},
                         {"window_bytes", p.plan.window_bytes},
                         {"fastest", fastest(p.plan)}};
  for (const Way& way : kWays) json[way.name] = p.plan.*way.plan;
  return json;
}

void print_json(const PlanArguments& a, const Plans& plans) {
  nlohmann::json planned = nlohmann::json::array(), skipped = nlohmann::json::array();
  for (const auto& p : plans.planned) planned.push_back(json_of(p));
  for (const auto& [ranks, why] : plans.skipped)
    skipped.push_back({{"ranks", ranks}, {"reason", why}});
  const nlohmann::json json = {{"layer", a.source.name()}, {"tokens", a.tokens},
                               {"routing", a.routing},     {"rates", a.rates},
                               {"plans", planned},         {"skipped", skipped}};
  say_json(json);
}

std::string megabytes(const Spread& bytes) {
  return fmt::format("{:.1f}", bytes.max * 1e-6);
}

std::string microseconds(double us) {
  return fmt::format("{:.0f}", us);
}

void print_head(const PlanArguments& a) {
  const ClusterRates& r = a.rates;
  say("layer    {}\n         {}\n", a.source.name(), describe(a.source.config()));
  say("tokens   {} a rank, routing {}\n", a.tokens, a.routing);
  say("rates    NVLink {:g} GB/s, network {:g} GB/s of each GPU and direction; {:g} TFLOP/s, {:g} "
      "GB/s of memory\n         a meeting {:g} us inside a node, {:g} us + {:g} us per rank beyond "
      "it; links are nominal or\n         as two GPUs were seen to reach "
      "(docs/guide/planning.md)\n",
      r.nvlink_gbps, r.network_gbps, r.gemm_tflops, r.read_gbps, r.nvlink_meeting_us,
      r.network_meeting_us, r.network_peer_us);
}

void print_traffic(const std::vector<Planned>& planned) {
  say("\nnormal dispatcher, dispatch: remote ranks and nodes of a token, MB of the busiest GPU's "
      "ports\n(combine is its reverse), its experts' share of slots over the mean, memory of the "
      "window\n");
  Table table({"ranks", "nodes", "to ranks", "to nodes", "NVLink out", "in", "network out", "in",
               "hot rank", "window"});
  for (const auto& [ranks, nodes, plan] : planned) {
    const Traffic& bytes = plan.normal.dispatch.bytes;
    const ExpertTime& e = plan.normal.experts;
    table.add({std::to_string(ranks), std::to_string(nodes),
               fmt::format("{:.2f}", plan.remote_rows_per_token),
               fmt::format("{:.2f}", plan.remote_nodes_per_token), megabytes(bytes.nvlink_sent),
               megabytes(bytes.nvlink_received), megabytes(bytes.network_sent),
               megabytes(bytes.network_received),
               e.mean_slots > 0 ? fmt::format("{:.2f}x", e.slots / e.mean_slots) : "-",
               human_bytes(plan.window_bytes)});
  }
  say("{}", table.text());
}

void print_times(const std::vector<Planned>& planned) {
  say("\ntimes in us; two_level and all_gather to compare with\n");
  Table table({"ranks", "dispatch", "experts", "combine", "layer", "<bound by", "two_level",
               "all_gather", "<fastest"});
  for (const auto& [ranks, nodes, plan] : planned)
    table.add({std::to_string(ranks), microseconds(plan.normal.dispatch.us),
               microseconds(plan.normal.experts.us), microseconds(plan.normal.combine.us),
               microseconds(plan.normal.us), bound_name(plan.normal.bound),
               microseconds(plan.two_level.us), microseconds(plan.all_gather.us), fastest(plan)});
  say("{}", table.text());
}

void print_chart(const std::vector<Planned>& planned) {
  const auto width = static_cast<double>(std::clamp<size_t>(console_width(), 30, 80) - 16);
  double most = 0;
  for (const auto& p : planned) most = std::max(most, p.plan.normal.us);
  say("\nnormal: > dispatch, # experts, < combine\n");
  for (const auto& p : planned) {
    const auto bar = [&](double us, char mark) {
      return std::string(static_cast<size_t>(std::lround(us / most * width)), mark);
    };
    const DispatcherPlan& d = p.plan.normal;
    say("{:>5}  {}{}{} {:.0f}\n", p.ranks, bar(d.dispatch.us, '>'), bar(d.experts.us, '#'),
        bar(d.combine.us, '<'), d.us);
  }
}

// "16, 32": where this holds; empty if nowhere.
std::string ranks_where(const std::vector<Planned>& planned,
                        const std::function<bool(const RankPlan&)>& holds) {
  std::vector<int> ranks;
  for (const auto& p : planned)
    if (holds(p.plan)) ranks.push_back(p.ranks);
  return fmt::format("{}", fmt::join(ranks, ", "));
}

void print_limits(const std::vector<Planned>& planned) {
  constexpr double kWorthIt = 0.95;
  const auto moves = ranks_where(planned, [](const RankPlan& p) {
    return p.normal.dispatch.us + p.normal.combine.us > p.normal.experts.us;
  });
  const auto levels = ranks_where(
      planned, [](const RankPlan& p) { return p.two_level.us < kWorthIt * p.normal.us; });
  const auto gather = ranks_where(
      planned, [](const RankPlan& p) { return p.all_gather.us < kWorthIt * p.normal.us; });
  const Planned& last = planned.back();
  const Traffic& rows = last.plan.normal.dispatch.rows;
  const double sent = rows.nvlink_sent.mean + rows.network_sent.mean;
  say("\nwhere it stops scaling\n");
  if (!moves.empty()) say("  moving rows takes longer than the experts at {} ranks\n", moves);
  if (!levels.empty()) say("  two levels would save more than 5 % at {} ranks\n", levels);
  if (!gather.empty())
    say("  an all-gather at its best would save more than 5 % at {} ranks\n", gather);
  if (sent > 0 && last.nodes > 1)
    say("  at {} ranks a row crosses the network {:.2f} times, once per node would be {:.2f} "
        "times\n",
        last.ranks, rows.network_sent.mean / sent * last.plan.remote_rows_per_token,
        last.plan.remote_nodes_per_token);
  say("  at {} ranks a window holds the tokens of all of them: {}\n", last.ranks,
      human_bytes(last.plan.window_bytes));
}

int place(PlanArguments& a) {
  refuse_unused(*a.command,
                {"--model", "--layer", "--config", "--preset", "--tokens", "--routing",
                 "--nvlink-gbps", "--network-gbps", "--nvlink-meeting-us", "--network-meeting-us",
                 "--network-peer-us", "--gemm-tflops", "--read-gbps"},
                "a plan without --placement");
  const auto ranks = rank_numbers(a.ranks);
  require_usage(is_given(*a.command, "--ranks") && ranks.size() == 1,
                "--ranks={}, need one number with --placement", a.ranks);
  a.placement.ranks = *ranks.begin();
  a.placement.nodes = a.nodes_of(a.placement.ranks);
  a.placement.json = a.json;
  return print_placement(a.placement);
}

int plan(PlanArguments& a) {
  if (!a.placement.loads.empty()) return place(a);
  refuse_unused(*a.command, {"--slots", "--groups", "--current"}, "--placement");
  require_usage(a.source.given(), "need either --model DIR --layer N or --preset NAME");
  a.source.open();
  const Plans plans = make_plans(a);
  if (a.json) {
    print_json(a, plans);
    return kGood;
  }
  print_head(a);
  print_traffic(plans.planned);
  print_times(plans.planned);
  print_chart(plans.planned);
  print_limits(plans.planned);
  for (const auto& [ranks, why] : plans.skipped) say("left out {}: {}\n", ranks, why);
  return kGood;
}

void add_placement(CLI::App& c, PlacementArguments& a) {
  add_value(
      c, "--placement", a.loads, "LOADS.json|-",
      "Instead of a plan of rows and times: which rank holds which experts, from the loads of "
      "the experts of each layer (docs/guide/placement.md)");
  add_number(c, "--slots", a.slots, {1, kMostSlots}, "N",
             "With --placement: places for an expert's weights, over all ranks")
      ->default_str("as few as hold the experts");
  add_value(
      c, "--current", a.current, "PLAN.json",
      "With --placement: the plan that runs now, of which experts keep their slots where they can");
  add_number(c, "--groups", a.groups, {1, kMaxExperts}, "G",
             "With --placement: groups of experts, each on one node where the nodes divide them");
}

void add_rates(CLI::App& c, ClusterRates& r) {
  constexpr Range<double> kRate{1e-3, 1e6}, kTime{0, 1e6};
  add_number(c, "--nvlink-gbps", r.nvlink_gbps, kRate, "GB/s", "NVLink of a GPU, each direction");
  add_number(c, "--network-gbps", r.network_gbps, kRate, "GB/s",
             "Network card of a GPU, each direction");
  add_number(c, "--nvlink-meeting-us", r.nvlink_meeting_us, kTime, "US",
             "Ranks of a node wait for each other");
  add_number(c, "--network-meeting-us", r.network_meeting_us, kTime, "US",
             "Ranks of several nodes do");
  add_number(c, "--network-peer-us", r.network_peer_us, kTime, "US",
             "and for each rank beyond the node");
  add_number(c, "--gemm-tflops", r.gemm_tflops, kRate, "TFLOP/s", "A large bf16 GEMM on one GPU");
  add_number(c, "--read-gbps", r.read_gbps, kRate, "GB/s", "Memory of one GPU");
}

}  // namespace

Command add_plan(CLI::App& app) {
  auto a = std::make_shared<PlanArguments>();
  auto& c = *app.add_subcommand(
      "plan",
      "Foresee rows, bytes and time of a layer over many GPUs and nodes, and what bounds it; or "
      "place its experts");
  a->command = &c;
  a->source.add_options(c, LayerSource::Shares::No);
  add_value(c, "--ranks", a->ranks, "P|P,P|P..P",
            "GPUs: a number, a list, or a range (its powers of two)");
  auto* nodes = add_number(c, "--nodes", a->nodes, {1, kMostRanks}, "N",
                           "Nodes; equal parts of the ranks are on each")
                    ->default_str("as few as hold the ranks");
  add_number(c, "--ranks-per-node", a->ranks_per_node, {1, kMostRanks}, "G",
             "Without --nodes: most ranks of a node")
      ->excludes(nodes);
  add_number(c, "--tokens,--max-tokens", a->tokens, {0, kMostTokens}, "T", "Tokens of each rank");
  add_value(c, "--routing", a->routing, "NAME|FILE",
            "balanced, zipf, zipf-spread, hot, or a file with a count for each expert, such as "
            "the output of `switchyard run --json` (docs/guide/planning.md)");
  add_placement(c, a->placement);
  add_rates(c, a->rates);
  c.add_flag("--json", a->json, "Print one JSON object");
  c.footer(
      "Nothing is run.\n\nExample:\n  switchyard plan --preset deepseek-v3 --ranks 8..256\n"
      "over 4 nodes, with the experts that a layer was seen to choose:\n"
      "  switchyard run --model DIR --layer 1 --input FILE --json > routing.json\n"
      "  switchyard plan --model DIR --layer 1 --ranks 8,16,32 --nodes 4 --routing routing.json\n"
      "experts on 8 ranks with a place more each, so that the ranks have as much to do:\n"
      "  switchyard plan --placement routing.json --slots 264 --ranks 8");
  return [a] { return plan(*a); };
}

}  // namespace switchyard::cli
