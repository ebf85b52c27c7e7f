// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/plan_placement.cc
#include "plan_placement.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "commands.h"
#include "routing.h"
#include "switchyard/error.h"
#include "switchyard/placement.h"

namespace switchyard::cli {
namespace {

// As many slots as the plan has, unless --slots says otherwise.
void take_current(PlacementRequest& r, const PlacementArguments& a) {
  const auto layers = slots_of_layers(a.current);
  require_usage(
      std::ssize(layers) == r.num_layers,
      "--current={}, has {} layers, the loads are of {}. Name the plan of the same layers",
      a.current, layers.size(), r.num_layers);
  if (a.slots == 0) r.num_slots = std::ssize(layers.front());
  for (const auto& slots : layers) {
    require_usage(std::ssize(slots) == r.num_slots, "--current={}, has {} slots, need --slots={}",
                  a.current, slots.size(), r.num_slots);
    r.current.insert(r.current.end(), slots.begin(), slots.end());
  }
}

PlacementRequest request_of(const PlacementArguments& a) {
  PlacementRequest r;
  const auto layers = layer_loads(a.loads);
  r.num_layers = std::ssize(layers);
  r.num_experts = std::ssize(layers.front());
  for (const auto& loads : layers) r.loads.insert(r.loads.end(), loads.begin(), loads.end());
  r.num_ranks = a.ranks;
  r.num_nodes = a.nodes;
  r.num_groups = a.groups;
  const int64_t filled = (r.num_experts + a.ranks - 1) / a.ranks * a.ranks;
  r.num_slots = a.slots > 0 ? a.slots : filled;
  if (!a.current.empty()) take_current(r, a);
  return r;
}

Placement placed(const PlacementRequest& r, const PlacementArguments& a) {
  try {
    return plan_placement(r);
  } catch (const Error& e) {
    if (e.code() != Errc::BadRouting) throw;
    throw Error(Errc::BadFile, fmt::format("{} (--placement={})", e.what(), a.loads));
  }
}

// Of a table with a row for each layer.
template <class T>
std::span<const T> row(const std::vector<T>& table, int64_t layer, int64_t num_layers) {
  const size_t size = table.size() / static_cast<size_t>(num_layers);
  return std::span(table).subspan(static_cast<size_t>(layer) * size, size);
}

// ---- JSON

nlohmann::json rows_of(const auto& table, int64_t num_layers) {
  nlohmann::json rows = nlohmann::json::array();
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const auto values = row(table, layer, num_layers);
    rows.push_back(std::vector(values.begin(), values.end()));
  }
  return rows;
}

// Without the -1 behind them.
nlohmann::json lists_of(const Placement& p) {
  nlohmann::json layers = nlohmann::json::array();
  for (int64_t layer = 0; layer < p.num_layers; ++layer) {
    const auto counts = row(p.replica_counts, layer, p.num_layers);
    const auto slots = row(p.logical_to_physical, layer, p.num_layers);
    nlohmann::json lists = nlohmann::json::array();
    for (size_t e = 0; e < counts.size(); ++e) {
      const auto list = slots.subspan(e * static_cast<size_t>(p.max_replicas), counts[e]);
      lists.push_back(std::vector(list.begin(), list.end()));
    }
    layers.push_back(std::move(lists));
  }
  return layers;
}

void print_json(const PlacementRequest& r, const Placement& p) {
  say_json({{"layers", p.num_layers},
            {"experts", p.num_experts},
            {"slots", p.num_slots},
            {"ranks", p.num_ranks},
            {"nodes", r.num_nodes},
            {"groups", r.num_groups},
            {"hierarchical", p.hierarchical},
            {"reason", p.reason},
            {"max_replicas", p.max_replicas},
            {"physical_to_logical", rows_of(p.physical_to_logical, p.num_layers)},
            {"logical_to_physical", lists_of(p)},
            {"replica_counts", rows_of(p.replica_counts, p.num_layers)},
            {"rank_loads_before", rows_of(p.rank_loads_before, p.num_layers)},
            {"rank_loads", rows_of(p.rank_loads, p.num_layers)},
            {"imbalance_before", p.imbalance_before},
            {"imbalance", p.imbalance},
            {"moves", p.num_moves}});
}

// ---- text

double sum_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

std::string ratio(double value) {
  return fmt::format("{:.3f}", value);
}

void print_head(const PlacementArguments& a, const PlacementRequest& r, const Placement& p) {
  const auto several = [](int64_t count, const char* one) {
    return fmt::format("{} {}{}", count, one, count == 1 ? "" : "s");
  };
  say("loads    {}: {}, E {}\n", a.loads == "-" ? "standard input" : a.loads,
      several(p.num_layers, "layer"), p.num_experts);
  say("slots    {} on {} of {}, {} each; an expert has at most {}\n", p.num_slots,
      several(p.num_ranks, "rank"), several(r.num_nodes, "node"), p.num_slots / p.num_ranks,
      p.max_replicas);
  if (!a.current.empty()) say("before   {}\n", a.current);
  say("placed   {}: {}\n", p.hierarchical ? "by groups" : "over all ranks", p.reason);
}

void print_layers(const PlacementRequest& r, const Placement& p) {
  const bool runs = !r.current.empty();
  say("\nlayers: load of the busiest rank over the mean, {} (before) and\n"
      "placed; the hottest expert's own over that mean{}\n",
      runs ? "as it runs" : "experts in their order",
      runs ? "; moves: slots whose weights change" : "");
  const auto with_moves = [&](std::vector<std::string> cells, std::string moves) {
    if (runs) cells.push_back(std::move(moves));
    return cells;
  };
  Table table(
      with_moves({"layer", "before", "placed", "hot expert", "its load", "replicas"}, "moves"));
  for (int64_t layer = 0; layer < p.num_layers; ++layer) {
    const auto loads = row(r.loads, layer, p.num_layers);
    const auto hot = std::ranges::max_element(loads) - loads.begin();
    const double mean = sum_of(loads) / p.num_ranks;
    table.add(with_moves(
        {std::to_string(layer), ratio(p.imbalance_before[layer]), ratio(p.imbalance[layer]),
         std::to_string(hot), mean > 0 ? ratio(loads[hot] / mean) : "-",
         std::to_string(row(p.replica_counts, layer, p.num_layers)[hot])},
        runs ? std::to_string(p.num_moves[layer]) : ""));
  }
  const auto layers = static_cast<double>(p.num_layers);
  const auto moves = std::accumulate(p.num_moves.begin(), p.num_moves.end(), 0.0);
  if (p.num_layers > 1)
    table.add(with_moves({"mean", ratio(sum_of(p.imbalance_before) / layers),
                          ratio(sum_of(p.imbalance) / layers), "", "", ""},
                         fmt::format("{:.1f}", moves / layers)));
  say("{}", table.text());
}

// Of a rank over the layers, over the mean of each.
struct RankLoad {
  double mean = 0, most = 0;
};

std::vector<RankLoad> rank_loads(const std::vector<double>& table, const Placement& p) {
  std::vector<RankLoad> ranks(p.num_ranks);
  for (int64_t layer = 0; layer < p.num_layers; ++layer) {
    const auto loads = row(table, layer, p.num_layers);
    const double mean = sum_of(loads) / p.num_ranks;
    for (int rank = 0; rank < p.num_ranks; ++rank) {
      const double load = mean > 0 ? loads[rank] / mean : 1;
      ranks[rank].mean += load / static_cast<double>(p.num_layers);
      ranks[rank].most = std::max(ranks[rank].most, load);
    }
  }
  return ranks;
}

// Of one layer with its experts, of several their mean and the most.
void print_ranks(const PlacementRequest& r, const Placement& p) {
  const auto before = rank_loads(p.rank_loads_before, p), after = rank_loads(p.rank_loads, p);
  const bool one = p.num_layers == 1;
  const size_t size = static_cast<size_t>(p.num_slots / p.num_ranks);
  say("\nranks: their load over the mean{}\n", one ? "" : ", and the most that it is in any layer");
  Table table(one ? std::vector<std::string>{"rank", "node", "before", "placed", "<experts"}
                  : std::vector<std::string>{"rank", "node", "before", "most", "placed", "most"});
  for (int rank = 0; rank < p.num_ranks; ++rank) {
    const auto node = std::to_string(rank / (p.num_ranks / r.num_nodes));
    const auto experts = std::span(p.physical_to_logical).subspan(rank * size, size);
    if (one)
      table.add({std::to_string(rank), node, ratio(before[rank].mean), ratio(after[rank].mean),
                 fmt::format("{}", fmt::join(experts, " "))});
    else
      table.add({std::to_string(rank), node, ratio(before[rank].mean), ratio(before[rank].most),
                 ratio(after[rank].mean), ratio(after[rank].most)});
  }
  say("{}", table.text());
}

}  // namespace

int print_placement(const PlacementArguments& a) {
  const PlacementRequest r = request_of(a);
  const Placement p = placed(r, a);
  if (a.json) {
    print_json(r, p);
    return kGood;
  }
  print_head(a, r, p);
  print_layers(r, p);
  print_ranks(r, p);
  return kGood;
}

}  // namespace switchyard::cli
