// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/plan_placement.cc -- replicas of experts, and the rank of each.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <queue>
#include <set>
#include <span>
#include <utility>

#include "base/checked.h"
#include "strategy/adjust_slots.h"
#include "strategy/keep_slots.h"
#include "switchyard/config.h"
#include "switchyard/placement.h"

namespace switchyard {
namespace {

constexpr int64_t kMostEntries = INT32_MAX;  // of a table: an int32 is enough to index it
constexpr double kMostLoad = 1e300;          // of a layer: sums in any order stay finite

void check_sizes(const PlacementRequest& r) {
  SWITCHYARD_REQUIRE(r.num_layers >= 1, ShapeMismatch, "placement: num_layers=", r.num_layers,
                     ", must be positive. Give loads of at least one layer.");
  SWITCHYARD_REQUIRE(r.num_experts >= 1 && r.num_experts <= kMaxExperts, ShapeMismatch,
                     "placement: num_experts=", r.num_experts, ", need 1 to ", kMaxExperts,
                     ". Give a load for each expert of a layer.");
  SWITCHYARD_REQUIRE(r.num_ranks >= 1, ShapeMismatch, "placement: num_ranks=", r.num_ranks,
                     ", must be positive. Use at least one rank.");
  SWITCHYARD_REQUIRE(r.num_nodes >= 1 && r.num_ranks % r.num_nodes == 0, ShapeMismatch,
                     "placement: num_nodes=", r.num_nodes, ", must divide num_ranks=", r.num_ranks,
                     ". Use another number of nodes.");
  SWITCHYARD_REQUIRE(r.num_groups >= 1 && r.num_experts % r.num_groups == 0, ShapeMismatch,
                     "placement: num_groups=", r.num_groups, ", must divide the E=", r.num_experts,
                     " experts. Use the groups of the gate, or 1.");
  const int64_t most = checked_mul(r.num_experts, r.num_ranks, "placement: slots of all ranks");
  SWITCHYARD_REQUIRE(r.num_slots >= r.num_experts && r.num_slots <= most, ShapeMismatch,
                     "placement: num_slots=", r.num_slots, ", need E=", r.num_experts, " to ", most,
                     ", every expert once on each of ", r.num_ranks,
                     " ranks. Use as many as an engine allocates.");
  SWITCHYARD_REQUIRE(r.num_slots % r.num_ranks == 0, ShapeMismatch,
                     "placement: num_slots=", r.num_slots,
                     ", need a multiple of num_ranks=", r.num_ranks, ". Use ",
                     align_up(r.num_slots, r.num_ranks), ".");
}

int64_t table_size(int64_t a, int64_t b, const char* table) {
  const int64_t size = checked_mul(a, b, table);
  SWITCHYARD_REQUIRE(size <= kMostEntries, ShapeMismatch, "placement: ", table, ".size()=", size,
                     ", at most ", kMostEntries,
                     " are indexed by 32 bits. Plan fewer layers at a time.");
  return size;
}

std::span<const double> loads_of(const PlacementRequest& r, int64_t layer) {
  return std::span(r.loads).subspan(static_cast<size_t>(layer * r.num_experts),
                                    static_cast<size_t>(r.num_experts));
}

double sum_of(std::span<const double> loads) {
  return std::accumulate(loads.begin(), loads.end(), 0.0);
}

void check_loads(const PlacementRequest& r) {
  const int64_t size = table_size(r.num_layers, r.num_experts, "loads");
  SWITCHYARD_REQUIRE(r.loads.size() == static_cast<size_t>(size), ShapeMismatch,
                     "placement: loads.size()=", r.loads.size(), ", need L * E=", size,
                     ". Give one load for each expert of each layer.");
  for (int64_t layer = 0; layer < r.num_layers; ++layer) {
    const auto loads = loads_of(r, layer);
    for (size_t e = 0; e < loads.size(); ++e)
      SWITCHYARD_REQUIRE(std::isfinite(loads[e]) && loads[e] >= 0, BadRouting, "placement: loads[",
                         layer, "][", e, "]=", loads[e],
                         ", must be finite and not negative. Record them again.");
    const double sum = sum_of(loads);
    SWITCHYARD_REQUIRE(sum <= kMostLoad, BadRouting, "placement: sum of loads[", layer, "]=", sum,
                       ", at most ", kMostLoad, " are added up. Use another unit.");
  }
}

std::span<const int32_t> current_of(const PlacementRequest& r, int64_t layer) {
  if (r.current.empty()) return {};
  return std::span(r.current).subspan(static_cast<size_t>(layer * r.num_slots),
                                      static_cast<size_t>(r.num_slots));
}

void check_current(const PlacementRequest& r) {
  const int64_t size = table_size(r.num_layers, r.num_slots, "physical_to_logical");
  if (r.current.empty()) return;
  SWITCHYARD_REQUIRE(r.current.size() == static_cast<size_t>(size), ShapeMismatch,
                     "placement: current.size()=", r.current.size(), ", need L * S=", size,
                     ". Give the expert of each slot of each layer, or none.");
  for (int64_t layer = 0; layer < r.num_layers; ++layer) {
    const auto slots = current_of(r, layer);
    std::vector<bool> held(static_cast<size_t>(r.num_experts), false);
    for (size_t s = 0; s < slots.size(); ++s) {
      SWITCHYARD_REQUIRE(slots[s] >= -1 && slots[s] < r.num_experts, ShapeMismatch,
                         "placement: current[", layer, "][", s, "]=", slots[s],
                         ", need -1 (none) or one of E=", r.num_experts,
                         " experts. Pass physical_to_logical of what runs.");
      if (slots[s] >= 0) held[static_cast<size_t>(slots[s])] = true;
    }
    const auto missing = std::ranges::find(held, false) - held.begin();
    SWITCHYARD_REQUIRE(missing == std::ssize(held), ShapeMismatch, "placement: current[", layer,
                       "] has no slot of expert ", missing,
                       ", each is in one at least. Pass physical_to_logical of what runs.");
  }
}

// What a layer is placed on.
struct Shape {
  int64_t experts, slots, groups;
  int ranks, nodes;

  int64_t rank_slots() const { return slots / ranks; }
  int node_ranks() const { return ranks / nodes; }
  SlotShape of_slots() const {
    return {static_cast<size_t>(rank_slots()), static_cast<size_t>(node_ranks())};
  }
};

struct Choice {
  Shape shape;
  bool hierarchical;
  std::string reason;
};

Choice choose_shape(const PlacementRequest& r) {
  const Shape nodes{r.num_experts, r.num_slots, r.num_groups, r.num_ranks, r.num_nodes};
  const Shape nodes_ignored{r.num_experts, r.num_slots, 1, r.num_ranks, 1};
  if (r.num_nodes == 1) return {nodes, false, "one node"};
  if (r.num_groups == 1) return {nodes_ignored, false, "experts have no groups"};
  if (r.num_groups % r.num_nodes != 0)
    return {nodes_ignored, false,
            cat(r.num_nodes, " nodes cannot hold as many of ", r.num_groups, " groups each")};
  const int64_t node_experts = r.num_experts / r.num_nodes;
  if (nodes.rank_slots() > node_experts)
    return {nodes_ignored, false,
            cat("a rank has ", nodes.rank_slots(), " slots, the groups of a node have ",
                node_experts, " experts")};
  return {nodes, true,
          cat("each node has ", r.num_groups / r.num_nodes, " of ", r.num_groups, " groups")};
}

// ---- step 2: how many replicas

// The one in front has the most load for each replica; of equal ones the first.
struct Waiting {
  double load;
  int32_t expert;

  bool operator<(const Waiting& other) const {
    return load != other.load ? load < other.load : expert > other.expert;
  }
};

// The expert of each replica: all experts once, then who gets another. None has more than `most`.
std::vector<int32_t> replicate(std::span<const double> loads, int64_t num_slots, int64_t most) {
  std::vector<int32_t> experts(loads.size()), counts(loads.size(), 1);
  std::iota(experts.begin(), experts.end(), 0);
  std::priority_queue<Waiting> waiting;
  for (const int32_t e : experts) waiting.push({loads[e], e});
  while (std::ssize(experts) < num_slots) {
    const int32_t e = waiting.top().expert;
    waiting.pop();
    experts.push_back(e);
    if (++counts[e] < most) waiting.push({loads[e] / counts[e], e});
  }
  return experts;
}

// ---- steps 1 and 3: items of different load into bins of equal room

class Packing {
 public:
  // No two items of one kind share a bin. At most as many are of one kind as there are bins, and a
  // bin has room for at most as many as there are kinds.
  Packing(std::span<const double> loads, std::span<const int32_t> kinds, int64_t num_bins)
      : loads_(loads),
        kinds_(kinds),
        room_(loads.size() / static_cast<size_t>(num_bins)),
        bins_(static_cast<size_t>(num_bins)),
        bin_loads_(bins_.size(), 0) {
    for (size_t b = 0; b < bins_.size(); ++b) open_.emplace(0, b);
  }

  // The items of each bin, in the order in which they came.
  std::vector<std::vector<int32_t>> pack() && {
    std::vector<int32_t> order(loads_.size());
    std::iota(order.begin(), order.end(), 0);
    if (room_ > 1)  // one each: as they come, the first item is in the first bin
      std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return loads_[a] > loads_[b]; });
    for (const int32_t item : order) {
      const auto bin = std::ranges::find_if(
          open_, [&](const auto& open) { return !has(open.second, kinds_[item]); });
      if (bin != open_.end())
        put(bin->second, item);
      else
        exchange(open_.begin()->second, item);
    }
    return std::move(bins_);
  }

 private:
  bool has(size_t bin, int32_t kind) const {
    return std::ranges::any_of(bins_[bin], [&](int32_t item) { return kinds_[item] == kind; });
  }
  void put(size_t bin, int32_t item) {
    open_.erase({bin_loads_[bin], bin});
    bins_[bin].push_back(item);
    bin_loads_[bin] += loads_[item];
    if (bins_[bin].size() < room_) open_.emplace(bin_loads_[bin], bin);
  }

  // All bins with room have this kind, so one without it is full, and has more kinds than `bin`:
  // one of them moves to `bin` and makes room. The one that leaves the least load.
  void exchange(size_t bin, int32_t item) {
    double least = 0;
    size_t from = bins_.size(), place = 0;
    for (size_t b = 0; b < bins_.size(); ++b) {
      if (has(b, kinds_[item])) continue;
      for (size_t i = 0; i < bins_[b].size(); ++i) {
        const int32_t moved = bins_[b][i];
        if (has(bin, kinds_[moved])) continue;
        const double load =
            std::max(bin_loads_[bin] + loads_[moved], bin_loads_[b] - loads_[moved] + loads_[item]);
        if (from == bins_.size() || load < least) least = load, from = b, place = i;
      }
    }
    const int32_t moved = std::exchange(bins_[from][place], item);
    bin_loads_[from] += loads_[item] - loads_[moved];
    put(bin, moved);
  }

  std::span<const double> loads_;
  std::span<const int32_t> kinds_;
  size_t room_;
  std::vector<std::vector<int32_t>> bins_;
  std::vector<double> bin_loads_;
  std::set<std::pair<double, size_t>> open_;  // bins with room, the least load first
};

// ---- a layer

std::vector<double> picked(std::span<const double> loads, std::span<const int32_t> experts) {
  std::vector<double> picked;
  for (const int32_t e : experts) picked.push_back(loads[e]);
  return picked;
}

// Step 1: the experts of each node.
std::vector<std::vector<int32_t>> experts_of_nodes(std::span<const double> loads, const Shape& s) {
  const auto size = static_cast<size_t>(s.experts / s.groups);
  std::vector<double> group_loads;
  for (size_t first = 0; first < loads.size(); first += size)
    group_loads.push_back(sum_of(loads.subspan(first, size)));
  std::vector<int32_t> groups(group_loads.size());
  std::iota(groups.begin(), groups.end(), 0);
  std::vector<std::vector<int32_t>> nodes;
  for (const auto& packed : Packing(group_loads, groups, s.nodes).pack()) {
    auto& experts = nodes.emplace_back();
    for (const int32_t g : packed)
      for (size_t i = 0; i < size; ++i)
        experts.push_back(g * static_cast<int32_t>(size) + static_cast<int32_t>(i));
  }
  return nodes;
}

std::vector<int32_t> counts_of(std::span<const int32_t> slots, int64_t experts) {
  std::vector<int32_t> counts(static_cast<size_t>(experts), 0);
  for (const int32_t e : slots)
    if (e >= 0) ++counts[e];
  return counts;
}

// Of each replica of an expert.
std::vector<double> divided(std::span<const double> loads, std::span<const int32_t> counts) {
  std::vector<double> shares;
  for (size_t e = 0; e < loads.size(); ++e) shares.push_back(loads[e] / counts[e]);
  return shares;
}

// Steps 2 and 3: the experts in the slots of a node, rank by rank.
std::vector<int32_t> place_in_node(std::span<const double> loads,
                                   const std::vector<int32_t>& experts, const Shape& s) {
  const auto own = picked(loads, experts);
  const auto replicas = replicate(own, s.slots / s.nodes, s.node_ranks());
  const auto shares = divided(own, counts_of(replicas, std::ssize(experts)));
  std::vector<int32_t> slots;
  for (const auto& rank : Packing(picked(shares, replicas), replicas, s.node_ranks()).pack())
    for (const int32_t replica : rank) slots.push_back(experts[replicas[replica]]);
  return slots;
}

std::vector<int32_t> place_anew(std::span<const double> loads, const Shape& s) {
  std::vector<int32_t> slots;
  for (const auto& experts : experts_of_nodes(loads, s))
    std::ranges::copy(place_in_node(loads, experts, s), std::back_inserter(slots));
  const auto shares = divided(loads, counts_of(slots, s.experts));
  Exchanges(slots, shares, s.of_slots()).run();
  return slots;
}

// ---- step 5

// Every slot holds an expert, no rank holds one twice, and a group is on one node.
bool is_sound(std::span<const int32_t> slots, const Shape& s) {
  const auto rank_slots = static_cast<int64_t>(s.rank_slots());
  const int64_t node_slots = rank_slots * s.node_ranks(), size = s.experts / s.groups;
  std::vector<int64_t> rank_of(static_cast<size_t>(s.experts), -1);
  std::vector<int64_t> node_of(static_cast<size_t>(s.groups), -1);
  for (int64_t at = 0; at < std::ssize(slots); ++at) {
    const int32_t e = slots[at];
    if (e < 0 || rank_of[e] == at / rank_slots) return false;
    rank_of[e] = at / rank_slots;
    int64_t& node = node_of[s.nodes > 1 ? e / size : 0];
    if (node >= 0 && node != at / node_slots) return false;
    node = at / node_slots;
  }
  return true;
}

std::vector<double> loads_of_ranks(std::span<const double> loads, std::span<const int32_t> slots,
                                   size_t num_ranks) {
  const auto counts = counts_of(slots, std::ssize(loads));
  std::vector<double> of_ranks(num_ranks, 0);
  for (size_t s = 0; s < slots.size(); ++s)
    if (const int32_t e = slots[s]; e >= 0)
      of_ranks[s / (slots.size() / num_ranks)] += loads[e] / counts[e];
  return of_ranks;
}

int64_t num_different(std::span<const int32_t> slots, std::span<const int32_t> current) {
  int64_t different = 0;
  for (size_t s = 0; s < slots.size(); ++s) different += slots[s] != current[s];
  return different;
}

std::vector<int32_t> place_layer(std::span<const double> loads, const Shape& s,
                                 std::span<const int32_t> current) {
  constexpr double kClose = 1.01;  // to the busiest rank of a plan from nothing
  std::vector<int32_t> slots = place_anew(loads, s);
  if (current.empty()) return slots;
  const auto rank_loads = loads_of_ranks(loads, slots, static_cast<size_t>(s.ranks));
  const double target = kClose * std::ranges::max(rank_loads);
  keep_slots(slots, current, std::array<int64_t, 3>{s.nodes, s.node_ranks(), s.rank_slots()});
  std::vector<int32_t> adjusted(current.begin(), current.end());
  const bool reached = is_sound(current, s) && adjust_slots(adjusted, loads, s.of_slots(), target);
  return reached && num_different(adjusted, current) <= num_different(slots, current) ? adjusted
                                                                                      : slots;
}

// ---- what comes of it

double imbalance_of(std::span<const double> rank_loads, double sum) {
  const double mean = sum / static_cast<double>(rank_loads.size());
  // Sums in another order may stay behind the mean by a rounding.
  return mean > 0 ? std::max(1.0, *std::ranges::max_element(rank_loads) / mean) : 1;
}

// Of experts in their order, as many on each rank as there can be.
std::vector<double> loads_in_order(std::span<const double> loads, int num_ranks) {
  const auto each = static_cast<size_t>(experts_of_rank(std::ssize(loads), num_ranks));
  std::vector<double> of_ranks(static_cast<size_t>(num_ranks), 0);
  for (size_t e = 0; e < loads.size(); ++e) of_ranks[e / each] += loads[e];
  return of_ranks;
}

void add_layer(Placement& p, std::span<const double> loads, const std::vector<int32_t>& slots,
               std::span<const int32_t> current) {
  const auto counts = counts_of(slots, p.num_experts);
  p.max_replicas = std::max<int64_t>(p.max_replicas, std::ranges::max(counts));
  (void)table_size(p.num_layers * p.num_experts, p.max_replicas, "logical_to_physical");
  const auto ranks = static_cast<size_t>(p.num_ranks);
  const auto after = loads_of_ranks(loads, slots, ranks);
  const auto before =
      current.empty() ? loads_in_order(loads, p.num_ranks) : loads_of_ranks(loads, current, ranks);

  const double sum = sum_of(loads);
  p.imbalance.push_back(imbalance_of(after, sum));
  p.imbalance_before.push_back(imbalance_of(before, sum));
  std::ranges::copy(after, std::back_inserter(p.rank_loads));
  std::ranges::copy(before, std::back_inserter(p.rank_loads_before));
  std::ranges::copy(counts, std::back_inserter(p.replica_counts));
  std::ranges::copy(slots, std::back_inserter(p.physical_to_logical));
  if (!current.empty()) p.num_moves.push_back(num_different(slots, current));
}

// The other direction, once C is known.
void add_lists(Placement& p) {
  const auto layer_slots = static_cast<size_t>(p.num_slots);
  const auto experts = static_cast<size_t>(p.num_experts);
  const auto most = static_cast<size_t>(p.max_replicas);
  p.logical_to_physical.assign(p.replica_counts.size() * most, -1);
  std::vector<size_t> listed(p.replica_counts.size(), 0);
  for (size_t i = 0; i < p.physical_to_logical.size(); ++i) {
    const size_t expert = i / layer_slots * experts + static_cast<size_t>(p.physical_to_logical[i]);
    p.logical_to_physical[expert * most + listed[expert]++] = static_cast<int32_t>(i % layer_slots);
  }
}

}  // namespace

Placement plan_placement(const PlacementRequest& request) {
  check_sizes(request);
  check_loads(request);
  check_current(request);
  const Choice choice = choose_shape(request);
  Placement p;
  p.num_layers = request.num_layers;
  p.num_experts = request.num_experts;
  p.num_slots = request.num_slots;
  p.num_ranks = request.num_ranks;
  p.hierarchical = choice.hierarchical;
  p.reason = choice.reason;
  const std::vector<double> alike(static_cast<size_t>(request.num_experts), 1.0);
  for (int64_t layer = 0; layer < request.num_layers; ++layer) {
    const auto loads = loads_of(request, layer);
    const bool idle = sum_of(loads) == 0;
    const auto current = current_of(request, layer);
    add_layer(p, loads, place_layer(idle ? alike : loads, choice.shape, current), current);
  }
  add_lists(p);
  return p;
}

}  // namespace switchyard
