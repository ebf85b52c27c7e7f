// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/strategy/placement_test.cc -- which rank holds which experts: the published plan, plain
// forms of the algorithm, every placement there is, and what must hold whatever the loads.
#include "switchyard/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "switchyard/error.h"

namespace switchyard {
namespace {

using Slots = std::vector<int32_t>;

PlacementRequest request(std::vector<double> loads, int64_t slots, int ranks) {
  PlacementRequest r;
  r.num_experts = std::ssize(loads);
  r.loads = std::move(loads);
  r.num_slots = slots;
  r.num_ranks = ranks;
  return r;
}

std::vector<double> shuffled_zipf(int64_t experts, double skew, uint64_t seed) {
  std::vector<double> loads;
  for (int64_t e = 0; e < experts; ++e)
    loads.push_back(std::pow(static_cast<double>(e + 1), -skew));
  std::mt19937_64 rng(seed);
  std::shuffle(loads.begin(), loads.end(), rng);
  return loads;
}

// Of several kinds in turn: even, exponential, Zipf, small integers with many ties, heavy tails,
// mostly nothing.
std::vector<double> drawn(int64_t experts, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<double> loads(static_cast<size_t>(experts));
  std::function<double()> draw;
  switch (seed % 6) {
    case 0: draw = [&] { return std::uniform_real_distribution<>(0, 1)(rng); }; break;
    case 1: draw = [&] { return std::exponential_distribution<>(1)(rng); }; break;
    case 2: return shuffled_zipf(experts, 1.0, seed);
    case 3: draw = [&] { return static_cast<double>(rng() % 10); }; break;
    case 4: draw = [&] { return std::lognormal_distribution<>(0, 1.5)(rng); }; break;
    default: draw = [&] { return rng() % 4 == 0 ? static_cast<double>(rng() % 1000) : 0.0; };
  }
  for (double& load : loads) load = draw();
  return loads;
}

// The slots of a rank.
std::vector<Slots> by_rank(const Slots& slots, int ranks) {
  const size_t size = slots.size() / static_cast<size_t>(ranks);
  std::vector<Slots> all;
  for (size_t first = 0; first < slots.size(); first += size)
    all.emplace_back(slots.begin() + static_cast<int64_t>(first),
                     slots.begin() + static_cast<int64_t>(first + size));
  return all;
}

bool has_duplicates(const Slots& slots, int ranks) {
  return std::ranges::any_of(by_rank(slots, ranks), [](const Slots& rank) {
    return std::set<int32_t>(rank.begin(), rank.end()).size() < rank.size();
  });
}

// The busiest rank over the mean, counted anew.
double imbalance(const std::vector<double>& loads, const Slots& slots, int ranks) {
  double busiest = 0;
  for (const Slots& rank : by_rank(slots, ranks)) {
    double load = 0;
    for (const int32_t e : rank)
      load += loads[static_cast<size_t>(e)] / static_cast<double>(std::ranges::count(slots, e));
    busiest = std::max(busiest, load);
  }
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  return sum > 0 ? busiest / (sum / ranks) : 1;
}

// ---- the published algorithm, as plain as its description

enum class Twice { Allowed, Never };  // an expert on a rank; it is published with Allowed

// Of equal loads the first comes first.
std::vector<int> heaviest_first(const std::vector<double>& loads) {
  std::vector<int> order(loads.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int i) { return loads[i]; });
  return order;
}

using Bins = std::vector<std::vector<int>>;

bool holds(const std::vector<int>& bin, const std::vector<int>& experts, int expert) {
  return std::ranges::any_of(bin, [&](int i) { return experts[i] == expert; });
}

double sum_of(const std::vector<int>& bin, const std::vector<double>& loads) {
  double sum = 0;
  for (const int i : bin) sum += loads[i];
  return sum;
}

// Every bin with room has the expert of this item: one moves there and makes room for it.
void make_room(Bins& bins, const std::vector<double>& loads, const std::vector<int>& experts,
               int to, int item) {
  Bins best;
  double least = std::numeric_limits<double>::infinity();
  for (size_t from = 0; from < bins.size(); ++from)
    for (size_t i = 0; i < bins[from].size(); ++i) {
      const int moved = bins[from][i];
      if (holds(bins[from], experts, experts[item]) || holds(bins[to], experts, experts[moved]))
        continue;
      Bins tried = bins;
      tried[from][i] = item;
      tried[to].push_back(moved);
      const double load = std::max(sum_of(tried[from], loads), sum_of(tried[to], loads));
      if (load < least) least = load, best = tried;
    }
  bins = best;
}

Bins packing(const std::vector<double>& loads, const std::vector<int>& experts, int count,
             Twice twice) {
  const size_t room = loads.size() / static_cast<size_t>(count);
  Bins bins(count);
  if (room == 1) {
    for (int i = 0; i < count; ++i) bins[i] = {i};
    return bins;
  }
  for (const int item : heaviest_first(loads)) {
    int to = -1, open = -1;
    const auto less = [&](int a, int b) {
      return b < 0 || sum_of(bins[a], loads) < sum_of(bins[b], loads);
    };
    for (int b = 0; b < count; ++b) {
      if (bins[b].size() == room) continue;
      if (less(b, open)) open = b;
      const bool passed_over = twice == Twice::Never && holds(bins[b], experts, experts[item]);
      if (!passed_over && less(b, to)) to = b;
    }
    if (to >= 0)
      bins[to].push_back(item);
    else
      make_room(bins, loads, experts, open, item);
  }
  return bins;
}

Slots plain_plan(const PlacementRequest& r, Twice twice) {
  const int64_t of_node = r.num_experts / r.num_nodes;
  const bool by_groups = r.num_groups % r.num_nodes == 0 &&
                         (twice == Twice::Allowed || r.num_slots / r.num_ranks <= of_node);
  const int groups = by_groups ? static_cast<int>(r.num_groups) : 1;
  const int nodes = by_groups ? r.num_nodes : 1, ranks = r.num_ranks / nodes;
  const int experts = static_cast<int>(r.num_experts), size = experts / groups;
  std::vector<double> group_loads(groups, 0);
  for (int e = 0; e < experts; ++e) group_loads[e / size] += r.loads[e];
  std::vector<int> group_names(groups);
  std::iota(group_names.begin(), group_names.end(), 0);
  Slots slots;
  for (const auto& node : packing(group_loads, group_names, nodes, twice)) {
    std::vector<int> own;
    for (const int g : node)
      for (int i = 0; i < size; ++i) own.push_back(g * size + i);
    std::vector<int> count(own.size(), 1), physical(own.size());
    std::iota(physical.begin(), physical.end(), 0);
    while (std::ssize(physical) < r.num_slots / nodes) {
      int most = -1;
      for (int e = 0; e < std::ssize(own); ++e) {
        if (twice == Twice::Never && count[e] == ranks) continue;
        if (most < 0 || r.loads[own[e]] / count[e] > r.loads[own[most]] / count[most]) most = e;
      }
      ++count[most];
      physical.push_back(most);
    }
    std::vector<double> shares;
    for (const int e : physical) shares.push_back(r.loads[own[e]] / count[e]);
    for (const auto& rank : packing(shares, physical, ranks, twice))
      for (const int replica : rank) slots.push_back(own[physical[replica]]);
  }
  return slots;
}

// The exchange between the busiest rank and another of its node after which the larger of both loads
// is least, and less than it was: the first such pair of slots. No rank gets an expert twice.
bool exchange(const std::vector<double>& loads, Slots& slots, int ranks, int nodes) {
  const auto share = [&](int32_t e) {
    return loads[e] / static_cast<double>(std::ranges::count(slots, e));
  };
  const auto of_ranks = by_rank(slots, ranks);
  std::vector<double> sums;
  for (const Slots& rank : of_ranks) {
    sums.push_back(0);
    for (const int32_t e : rank) sums.back() += share(e);
  }
  const int busiest = static_cast<int>(std::ranges::max_element(sums) - sums.begin());
  const int size = static_cast<int>(of_ranks[0].size());
  double least = sums[busiest] * (1 - 1e-8);
  std::pair<int, int> best{-1, -1};
  for (int other = 0; other < ranks; ++other)
    if (other != busiest && other / (ranks / nodes) == busiest / (ranks / nodes))
      for (int a = 0; a < size; ++a)
        for (int b = 0; b < size; ++b) {
          const int32_t given = of_ranks[busiest][a], taken = of_ranks[other][b];
          if (std::ranges::count(of_ranks[other], given) ||
              std::ranges::count(of_ranks[busiest], taken))
            continue;
          const double load = std::max(sums[busiest] - share(given) + share(taken),
                                       sums[other] - share(taken) + share(given));
          if (load < least) least = load, best = {busiest * size + a, other * size + b};
        }
  if (best.first >= 0) std::swap(slots[best.first], slots[best.second]);
  return best.first >= 0;
}

// ---- every placement there is

void each_set(int experts, int size, Slots& set, const std::function<void()>& f) {
  if (std::ssize(set) == size) return f();
  for (int32_t e = set.empty() ? 0 : set.back() + 1; e < experts; ++e) {
    set.push_back(e);
    each_set(experts, size, set, f);
    set.pop_back();
  }
}

// The least imbalance of all placements without an expert twice on a rank.
double least_imbalance(const std::vector<double>& loads, int slots, int ranks) {
  const int experts = static_cast<int>(loads.size());
  std::vector<Slots> sets;
  Slots set;
  each_set(experts, slots / ranks, set, [&] { sets.push_back(set); });
  double least = std::numeric_limits<double>::infinity();
  Slots all;
  const std::function<void(size_t, int)> place = [&](size_t first, int left) {
    if (left == 0) {
      if (std::ssize(std::set(all.begin(), all.end())) == experts)
        least = std::min(least, imbalance(loads, all, ranks));
      return;
    }
    for (size_t i = first; i < sets.size(); ++i) {  // ranks are alike: in rising order
      all.insert(all.end(), sets[i].begin(), sets[i].end());
      place(i, left - 1);
      all.resize(all.size() - sets[i].size());
    }
  };
  place(0, ranks);
  return least;
}

// What holds for every request.
void expect_sound(const PlacementRequest& r, const Placement& p) {
  const auto experts = static_cast<size_t>(r.num_experts), slots = static_cast<size_t>(r.num_slots);
  const auto layers = static_cast<size_t>(r.num_layers), most = static_cast<size_t>(p.max_replicas);
  ASSERT_EQ(p.physical_to_logical.size(), layers * slots);
  ASSERT_EQ(p.replica_counts.size(), layers * experts);
  ASSERT_EQ(p.logical_to_physical.size(), layers * experts * most);
  ASSERT_EQ(p.rank_loads.size(), layers * static_cast<size_t>(r.num_ranks));
  EXPECT_EQ(p.max_replicas, std::ranges::max(p.replica_counts));
  EXPECT_LE(p.max_replicas, r.num_ranks);
  for (size_t layer = 0; layer < layers; ++layer) {
    const auto first = p.physical_to_logical.begin() + static_cast<int64_t>(layer * slots);
    const Slots own(first, first + r.num_slots);
    EXPECT_FALSE(has_duplicates(own, r.num_ranks));
    Slots listed(slots, -1);
    for (size_t e = 0; e < experts; ++e) {
      const auto count = static_cast<size_t>(p.replica_counts[layer * experts + e]);
      EXPECT_GE(count, 1u);
      EXPECT_EQ(count, static_cast<size_t>(std::ranges::count(own, static_cast<int32_t>(e))));
      const int32_t* list = &p.logical_to_physical[(layer * experts + e) * most];
      EXPECT_TRUE(std::is_sorted(list, list + count));
      for (size_t c = 0; c < most; ++c)
        if (c < count)
          listed[static_cast<size_t>(list[c])] = static_cast<int32_t>(e);
        else
          EXPECT_EQ(list[c], -1);
    }
    EXPECT_EQ(listed, own);
    const std::vector<double> loads(r.loads.begin() + static_cast<int64_t>(layer * experts),
                                    r.loads.begin() + static_cast<int64_t>((layer + 1) * experts));
    EXPECT_NEAR(p.imbalance[layer], imbalance(loads, own, r.num_ranks), 1e-9);
    const double* sums = &p.rank_loads[layer * static_cast<size_t>(r.num_ranks)];
    const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
    EXPECT_NEAR(std::accumulate(sums, sums + r.num_ranks, 0.0), sum, 1e-9 * sum);
    if (!p.hierarchical) continue;
    for (int64_t g = 0; g < r.num_groups; ++g) {  // a group is on one node
      std::set<size_t> nodes;
      for (size_t s = 0; s < slots; ++s)
        if (own[s] / (r.num_experts / r.num_groups) == g)
          nodes.insert(s / (slots / static_cast<size_t>(r.num_nodes)));
      EXPECT_EQ(nodes.size(), 1u);
    }
  }
}

PlacementRequest published_request() {
  // From the README of DeepSeek's EPLB.
  PlacementRequest r;
  r.num_layers = 2;
  r.num_experts = 12;
  r.loads = {90, 132, 40,  61, 104, 165, 39,  4,   73,  56, 183, 86,
             20, 107, 104, 64, 19,  197, 187, 157, 172, 86, 16,  27};
  r.num_slots = 16;
  r.num_ranks = 8;
  r.num_nodes = 2;
  r.num_groups = 4;
  return r;
}

TEST(Placement, IsThePublishedOne) {
  const PlacementRequest r = published_request();
  const Placement p = plan_placement(r);
  EXPECT_EQ(p.physical_to_logical, (Slots{5, 6,  5, 7, 8, 4,  3, 4, 10, 9, 10, 2, 0, 1, 11, 1,
                                          7, 10, 6, 8, 6, 11, 8, 9, 2,  4, 5,  1, 5, 0, 3,  1}));
  EXPECT_TRUE(p.hierarchical);
  EXPECT_EQ(p.reason, "each node has 2 of 4 groups");
  EXPECT_EQ(p.max_replicas, 2);
  // Expert 5 of layer 0, expert 3 of layer 1.
  EXPECT_EQ(p.logical_to_physical[5 * 2], 0);
  EXPECT_EQ(p.logical_to_physical[5 * 2 + 1], 2);
  EXPECT_EQ(p.logical_to_physical[(12 + 3) * 2], 14);
  EXPECT_EQ(p.logical_to_physical[(12 + 3) * 2 + 1], -1);
  EXPECT_EQ(p.rank_loads[0], 165 / 2.0 + 39);
  EXPECT_EQ(p.rank_loads_before[1], 40 + 61);  // 12 experts on 8 ranks: two each, six ranks
  EXPECT_EQ(p.rank_loads_before[7], 0);
  EXPECT_EQ(p.imbalance[0], 156 / (1033 / 8.0));
  EXPECT_EQ(p.imbalance_before[0], 269 / (1033 / 8.0));
  expect_sound(r, p);
}

TEST(Placement, IsThePublishedAlgorithmWhereThatPutsNoExpertTwiceAndNoExchangeHelps) {
  struct Sizes {
    int64_t experts, slots;
    int ranks, nodes = 1;
    int64_t groups = 1;
  };
  int compared = 0, equal = 0;
  for (const Sizes& z : {Sizes{8, 8, 4},
                         {8, 8, 8},
                         {8, 16, 16},
                         {12, 16, 8, 2, 4},
                         {12, 16, 4, 2, 3},
                         {16, 20, 4},
                         {16, 24, 8, 2, 8},
                         {32, 40, 8, 4, 4},
                         {24, 32, 8, 1, 6},
                         {64, 72, 8}})
    for (uint64_t seed = 0; seed < 300; ++seed) {
      PlacementRequest r = request(drawn(z.experts, seed), z.slots, z.ranks);
      if (std::ranges::max(r.loads) == 0) continue;
      r.num_nodes = z.nodes;
      r.num_groups = z.groups;
      Slots published = plain_plan(r, Twice::Allowed);
      if (has_duplicates(published, z.ranks)) continue;
      const Placement p = plan_placement(r);
      EXPECT_LE(p.imbalance[0], imbalance(r.loads, published, z.ranks) * (1 + 1e-9)) << seed;
      ++compared;
      const int nodes = z.groups % z.nodes == 0 ? z.nodes : 1;
      const Slots before = published;
      if (exchange(r.loads, published, z.ranks, nodes)) continue;
      EXPECT_EQ(p.physical_to_logical, before) << z.experts << " " << z.slots << " " << seed;
      ++equal;
    }
  EXPECT_GT(compared, 1000);
  EXPECT_GT(equal, 500);
}

// Nodes, ranks, groups, experts and slots of every kind.
PlacementRequest drawn_request(uint64_t seed) {
  std::mt19937_64 rng(seed);
  const auto below = [&](int64_t end) { return static_cast<int64_t>(rng() % end); };
  PlacementRequest r;
  r.num_nodes = 1 + static_cast<int>(below(3));
  r.num_ranks = r.num_nodes * (1 + static_cast<int>(below(4)));
  r.num_groups = 1 + below(6);
  r.num_experts = r.num_groups * (1 + below(5));
  const int64_t least = (r.num_experts + r.num_ranks - 1) / r.num_ranks;
  r.num_slots = r.num_ranks * (least + below(r.num_experts - least + 1));
  r.num_layers = 1 + below(2);
  for (int64_t layer = 0; layer < r.num_layers; ++layer)
    for (const double load : drawn(r.num_experts, rng() % 1000)) r.loads.push_back(load);
  return r;
}

TEST(Placement, OfAnyLoadsIsSound) {
  for (uint64_t seed = 0; seed < 10000; ++seed) {
    const PlacementRequest r = drawn_request(seed);
    const Placement p = plan_placement(r);
    expect_sound(r, p);
    EXPECT_EQ(p.physical_to_logical, plan_placement(r).physical_to_logical);
    if (HasFailure()) FAIL() << "seed " << seed;
  }
}

TEST(Placement, IsItsPlainForm) {
  int differ = 0, exchanged = 0;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    PlacementRequest r = drawn_request(seed);
    r.num_layers = 1;
    r.loads.resize(static_cast<size_t>(r.num_experts));
    // Multiples of all numbers of ranks: every share and every sum is exact, so are ties.
    for (double& load : r.loads) load = std::round(load * 8) * 27720;
    if (std::ranges::max(r.loads) == 0) continue;
    const Placement p = plan_placement(r);
    Slots plain = plain_plan(r, Twice::Never);
    differ += plain != plain_plan(r, Twice::Allowed);
    while (exchange(r.loads, plain, r.num_ranks, p.hierarchical ? r.num_nodes : 1)) ++exchanged;
    EXPECT_EQ(p.physical_to_logical, plain) << seed;
  }
  EXPECT_GT(differ, 1000);
  EXPECT_GT(exchanged, 500);
}

TEST(Placement, EightSlotsMoreThanExpertsBalanceZipf) {
  for (uint64_t seed = 0; seed < 50; ++seed)
    for (const auto& [slots, most] :
         {std::pair{256, 1.48}, {264, 1.01}, {272, 1.01}, {288, 1.01}, {320, 1.01}}) {
      const PlacementRequest r = request(shuffled_zipf(256, 1.0, seed), slots, 8);
      const Placement p = plan_placement(r);
      EXPECT_LE(p.imbalance[0], most) << slots;
      EXPECT_FALSE(has_duplicates(p.physical_to_logical, 8)) << slots;
      EXPECT_LT(p.imbalance[0], p.imbalance_before[0]);
    }
}

TEST(Placement, GroupsOnNodesAreNeverWorseThanInTheirOrder) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    PlacementRequest r = request(shuffled_zipf(256, 1.0, seed), 288, 32);
    r.num_nodes = 4;
    r.num_groups = 8;
    const Placement p = plan_placement(r);
    EXPECT_TRUE(p.hierarchical);
    expect_sound(r, p);
    EXPECT_LT(p.imbalance[0], p.imbalance_before[0]);
    r.num_groups = 1;
    EXPECT_LE(plan_placement(r).imbalance[0], p.imbalance[0]);
  }
}

TEST(Placement, IsNotWorseThanWithoutReplicas) {
  for (uint64_t seed = 0; seed < 600; ++seed)
    for (const auto& [experts, ranks] : {std::pair{32, 4}, {32, 8}, {64, 8}, {64, 16}})
      for (const int more : {1, 2}) {
        const auto loads = drawn(experts, seed);
        const double with =
            plan_placement(request(loads, experts + more * ranks, ranks)).imbalance[0];
        const Placement without = plan_placement(request(loads, experts, ranks));
        EXPECT_LE(with, without.imbalance_before[0] * (1 + 1e-9)) << experts << " " << seed;
        EXPECT_LE(without.imbalance[0], without.imbalance_before[0] * (1 + 1e-9));
        // Beside experts that are moved, not halved, halves can be harder to place: of few sizes, or
        // where most experts do nothing. Seen: 1.031 and 1.170.
        const bool most_idle = seed % 6 == 5;
        EXPECT_LE(with, without.imbalance[0] * (most_idle ? 1.2 : 1.04)) << experts << " " << seed;
      }
}

TEST(Placement, FillsEverySlotAlsoWhereThatCostsBalance) {
  const std::vector<double> loads = {4, 1, 3, 2};
  EXPECT_EQ(plan_placement(request(loads, 4, 2)).imbalance[0], 1);
  EXPECT_NEAR(least_imbalance(loads, 6, 2), 1.1, 1e-12);
  EXPECT_NEAR(plan_placement(request(loads, 6, 2)).imbalance[0], 1.1, 1e-12);
}

TEST(Placement, OfFewExpertsIsCloseToTheBestOfAll) {
  struct Sizes {
    int experts, slots, ranks;
  };
  double sum = 0;
  int count = 0;
  for (const Sizes& z : {Sizes{4, 4, 2},
                         {4, 6, 2},
                         {4, 8, 4},
                         {5, 6, 2},
                         {5, 6, 3},
                         {5, 9, 3},
                         {6, 8, 2},
                         {6, 8, 4},
                         {6, 6, 3},
                         {6, 9, 3},
                         {8, 8, 2},
                         {8, 10, 2},
                         {8, 9, 3}})
    for (uint64_t seed = 0; seed < 60; ++seed) {
      const PlacementRequest r = request(drawn(z.experts, seed), z.slots, z.ranks);
      if (std::ranges::max(r.loads) == 0) continue;
      const double best = least_imbalance(r.loads, z.slots, z.ranks);
      const double ratio = plan_placement(r).imbalance[0] / best;
      EXPECT_GE(ratio, 1 - 1e-9);
      EXPECT_LE(ratio, 1.4);  // seen: 1.389
      sum += ratio;
      ++count;
    }
  EXPECT_LE(sum / count, 1.04);  // seen: 1.033
}

TEST(Placement, OfPairsIsTheBest) {  // the heaviest with the lightest, and so on
  for (const auto& [experts, ranks] : {std::pair{4, 2}, {6, 3}, {8, 4}})
    for (uint64_t seed = 0; seed < 100; ++seed) {
      const PlacementRequest r = request(drawn(experts, seed), experts, ranks);
      if (std::ranges::max(r.loads) == 0) continue;
      EXPECT_NEAR(plan_placement(r).imbalance[0], least_imbalance(r.loads, experts, ranks), 1e-9);
    }
}

TEST(Placement, OfEveryExpertOnEveryRankIsEven) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Placement p = plan_placement(request(drawn(7, seed), 35, 5));
    EXPECT_NEAR(p.imbalance[0], 1, 1e-12);
    EXPECT_EQ(p.replica_counts, Slots(7, 5));
  }
}

TEST(Placement, OneExpertWithAllLoadIsOnAsManyRanksAsThereAreSlots) {
  std::vector<double> loads(16, 0);
  loads[9] = 3;
  for (const auto& [slots, copies] : {std::pair{16, 1}, {20, 4}, {24, 4}}) {
    const Placement p = plan_placement(request(loads, slots, 4));
    EXPECT_EQ(p.replica_counts[9], copies);
    EXPECT_EQ(p.imbalance[0], 4.0 / copies);
  }
}

TEST(Placement, OfEqualLoadsTheFirstComesFirst) {
  // Experts 0 and 1 get the two further slots. The heaviest are then 2 and 3, one to each rank; 0 and
  // 1 follow, and their replicas cross over, since an expert is not twice on a rank.
  const Placement p = plan_placement(request({1, 1, 1, 1}, 6, 2));
  EXPECT_EQ(p.physical_to_logical, (Slots{2, 0, 1, 3, 1, 0}));
  // One slot each: in their order. Groups: the lowest first.
  EXPECT_EQ(plan_placement(request({1, 5, 2, 3}, 4, 4)).physical_to_logical, (Slots{0, 1, 2, 3}));
  PlacementRequest r = request(std::vector<double>(8, 1), 8, 4);
  r.num_nodes = 2;
  r.num_groups = 4;
  EXPECT_EQ(plan_placement(r).physical_to_logical, (Slots{0, 4, 1, 5, 2, 6, 3, 7}));
}

TEST(Placement, MakesRoomWhereEveryFreeRankHoldsTheExpert) {
  // Four replicas of load 1: 0 and 2 fill rank 0, 1 is on rank 1, which has room for the other 1.
  const Placement p = plan_placement(request({1, 2, 1}, 4, 2));
  EXPECT_EQ(p.physical_to_logical, (Slots{1, 2, 1, 0}));
  EXPECT_EQ(p.imbalance[0], 1);
}

TEST(Placement, ALayerWithoutLoadIsPlannedAsAllAlike) {
  const Placement idle = plan_placement(request(std::vector<double>(12, 0), 20, 4));
  const Placement alike = plan_placement(request(std::vector<double>(12, 7), 20, 4));
  EXPECT_EQ(idle.physical_to_logical, alike.physical_to_logical);
  EXPECT_EQ(idle.imbalance, std::vector(1, 1.0));
  EXPECT_EQ(idle.rank_loads, std::vector(4, 0.0));
  EXPECT_EQ(std::ranges::max(idle.replica_counts), 2);  // not all to the first
}

TEST(Placement, DoesNotDependOnTheUnitOrOnOtherLayers) {
  PlacementRequest both = request({}, 40, 8);
  both.num_experts = 32;
  both.num_layers = 2;
  std::vector<Slots> alone;
  for (const uint64_t seed : {1, 4}) {
    auto loads = drawn(32, seed);
    both.loads.insert(both.loads.end(), loads.begin(), loads.end());
    alone.push_back(plan_placement(request(loads, 40, 8)).physical_to_logical);
    for (double& load : loads) load *= 0x1p+60;
    EXPECT_EQ(plan_placement(request(loads, 40, 8)).physical_to_logical, alone.back());
  }
  alone[0].insert(alone[0].end(), alone[1].begin(), alone[1].end());
  EXPECT_EQ(plan_placement(both).physical_to_logical, alone[0]);
}

TEST(Placement, SaysWhyGroupsAreIgnored) {
  PlacementRequest r = request(shuffled_zipf(256, 1.0, 1), 264, 8);
  const Placement one = plan_placement(r);
  EXPECT_EQ(one.reason, "one node");
  EXPECT_FALSE(one.hierarchical);
  r.num_groups = 8;
  r.num_nodes = 8;  // with 32 experts on a node of one rank, a 33rd slot had an expert twice
  const Placement full = plan_placement(r);
  EXPECT_EQ(full.reason, "a rank has 33 slots, the groups of a node have 32 experts");
  EXPECT_FALSE(full.hierarchical);
  EXPECT_EQ(full.physical_to_logical, one.physical_to_logical);
  r.num_slots = 256;
  EXPECT_TRUE(plan_placement(r).hierarchical);
  r.num_groups = 4;
  const Placement uneven = plan_placement(r);
  EXPECT_EQ(uneven.reason, "8 nodes cannot hold as many of 4 groups each");
  EXPECT_FALSE(uneven.hierarchical);
  r.num_groups = 1;
  EXPECT_EQ(plan_placement(r).reason, "experts have no groups");
  r.num_groups = 2;
  r.num_nodes = 2;
  EXPECT_EQ(plan_placement(r).reason, "each node has 1 of 2 groups");
}

TEST(Placement, OfOneRankOneExpertOneSlot) {
  EXPECT_EQ(plan_placement(request({3}, 1, 1)).logical_to_physical, Slots{0});
  EXPECT_EQ(plan_placement(request({3}, 5, 5)).logical_to_physical, (Slots{0, 1, 2, 3, 4}));
  const Placement p = plan_placement(request({3, 1, 2}, 3, 1));
  EXPECT_EQ(p.rank_loads, std::vector(1, 6.0));
  EXPECT_EQ(p.replica_counts, Slots(3, 1));
}

TEST(Placement, RanksThatDoNotDivideTheExpertsAreFilled) {
  const PlacementRequest r = request(drawn(10, 1), 12, 4);
  const Placement p = plan_placement(r);
  expect_sound(r, p);
  // Without a placement ranks own 3, 3, 3 and 1.
  EXPECT_EQ(p.rank_loads_before[3], r.loads[9]);
}

// ---- of what runs

int64_t moves_between(const Slots& a, const Slots& b) {
  int64_t moves = 0;
  for (size_t s = 0; s < a.size(); ++s) moves += a[s] != b[s];
  return moves;
}

// What each rank holds, whatever the order.
std::multiset<std::multiset<int32_t>> contents(const Slots& slots, int ranks) {
  std::multiset<std::multiset<int32_t>> all;
  for (const Slots& rank : by_rank(slots, ranks)) all.emplace(rank.begin(), rank.end());
  return all;
}

TEST(PlacementOfWhatRuns, StaysWhereLoadsDo) {
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    PlacementRequest r = drawn_request(seed);
    const Placement first = plan_placement(r);
    EXPECT_TRUE(first.num_moves.empty());
    r.current = first.physical_to_logical;
    const Placement again = plan_placement(r);
    ASSERT_EQ(again.physical_to_logical, first.physical_to_logical) << seed;
    EXPECT_EQ(again.num_moves, std::vector<int64_t>(static_cast<size_t>(r.num_layers), 0));
    EXPECT_EQ(again.rank_loads_before, first.rank_loads);
    EXPECT_EQ(again.imbalance_before, first.imbalance);
  }
}

TEST(PlacementOfWhatRuns, IsAsEvenAsAPlanFromNothingAndMovesLess) {
  int64_t moves = 0, moves_from_nothing = 0, same_ranks = 0;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    PlacementRequest r = drawn_request(seed);
    r.num_layers = 1;
    r.loads.resize(static_cast<size_t>(r.num_experts));
    const Slots now = plan_placement(r).physical_to_logical;
    std::mt19937_64 rng(seed);
    for (double& load : r.loads) load *= std::uniform_real_distribution<>(0.7, 1.3)(rng);
    const Placement anew = plan_placement(r);
    r.current = now;
    const Placement kept = plan_placement(r);
    expect_sound(r, kept);
    same_ranks += contents(kept.physical_to_logical, r.num_ranks) ==
                  contents(anew.physical_to_logical, r.num_ranks);
    EXPECT_EQ(kept.num_moves.front(), moves_between(kept.physical_to_logical, now));
    EXPECT_LE(kept.imbalance.front(), 1.0101 * anew.imbalance.front());
    EXPECT_NEAR(kept.imbalance_before.front(), imbalance(r.loads, now, r.num_ranks), 1e-9);
    moves += kept.num_moves.front();
    moves_from_nothing += moves_between(anew.physical_to_logical, now);
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_LT(moves, moves_from_nothing / 3) << moves << " of " << moves_from_nothing;
  EXPECT_GT(same_ranks, 500);  // those whose places changed only
  EXPECT_LT(same_ranks, 2500);
}

// Against all orders of ranks and slots there are.
TEST(PlacementOfWhatRuns, MovesHardlyMoreThanTheBestOrder) {
  int64_t moves = 0, least = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    PlacementRequest r = request(drawn(8, seed), 12, 4);
    std::mt19937_64 rng(seed);
    r.current = plan_placement(request(drawn(8, seed + 1), 12, 4)).physical_to_logical;
    if (seed % 3 == 0) r.current[rng() % 12] = -1;
    std::set<int32_t> held(r.current.begin(), r.current.end());
    held.erase(-1);
    if (held.size() < 8) continue;
    const Placement kept = plan_placement(r);
    const auto now = by_rank(r.current, 4), planned = by_rank(kept.physical_to_logical, 4);
    std::vector<size_t> order{0, 1, 2, 3};
    int64_t best = 12;
    do {
      int64_t different = 12;
      for (size_t rank = 0; rank < 4; ++rank)
        for (const int32_t e : planned[order[rank]]) different -= std::ranges::count(now[rank], e);
      best = std::min(best, different);
    } while (std::ranges::next_permutation(order).found);
    ASSERT_GE(kept.num_moves.front(), best) << seed;
    moves += kept.num_moves.front(), least += best;
  }
  EXPECT_GT(least, 300);
  EXPECT_LE(static_cast<double>(moves), 1.1 * static_cast<double>(least));
}

TEST(PlacementOfWhatRuns, ASlotThatIsEmptyIsFilled) {
  PlacementRequest r = request({5, 4, 3, 2}, 6, 2);
  r.current = {0, 1, -1, 2, 3, -1};
  const Placement p = plan_placement(r);
  EXPECT_EQ(p.rank_loads_before, (std::vector<double>{9, 5}));
  EXPECT_EQ(p.num_moves.front(), moves_between(p.physical_to_logical, r.current));
  EXPECT_LT(p.imbalance.front(), p.imbalance_before.front());
  EXPECT_EQ(std::ranges::count(p.physical_to_logical, -1), 0);
  EXPECT_LE(p.num_moves.front(), 3);
}

TEST(Placement, SaysWhatIsWrong) {
  const auto refused = [](Errc code, const char* says,
                          const std::function<void(PlacementRequest&)>& f) {
    PlacementRequest r = published_request();
    f(r);
    try {
      (void)plan_placement(r);
      ADD_FAILURE() << says;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
  };
  const auto shape = Errc::ShapeMismatch, routing = Errc::BadRouting;
  refused(shape, "num_layers=0", [](auto& r) { r.num_layers = 0; });
  refused(shape, "num_experts=0", [](auto& r) { r.num_experts = 0; });
  refused(shape, "num_experts=4097, need 1 to 4096", [](auto& r) { r.num_experts = 4097; });
  refused(shape, "num_ranks=0", [](auto& r) { r.num_ranks = 0; });
  refused(shape, "num_nodes=0", [](auto& r) { r.num_nodes = 0; });
  refused(shape, "num_nodes=3, must divide num_ranks=8", [](auto& r) { r.num_nodes = 3; });
  refused(shape, "num_groups=0", [](auto& r) { r.num_groups = 0; });
  refused(shape, "num_groups=5, must divide the E=12", [](auto& r) { r.num_groups = 5; });
  refused(shape, "num_slots=8, need E=12 to 96", [](auto& r) { r.num_slots = 8; });
  refused(shape, "num_slots=104, need E=12 to 96", [](auto& r) { r.num_slots = 104; });
  refused(shape, "num_slots=-16", [](auto& r) { r.num_slots = -16; });
  refused(shape, "num_slots=17, need a multiple of num_ranks=8. Use 24.",
          [](auto& r) { r.num_slots = 17; });
  refused(shape, "loads.size()=24, need L * E=36", [](auto& r) { r.num_layers = 3; });
  refused(shape, "loads.size()=24, need L * E=12", [](auto& r) { r.num_layers = 1; });
  refused(shape, "does not fit", [](auto& r) { r.num_layers = INT64_MAX; });
  refused(shape, "loads.size()=2147483652, at most", [](auto& r) { r.num_layers = 178956971; });
  refused(shape, "physical_to_logical.size()=4294967296, at most", [](auto& r) {
    r = request({0}, 4096, 4096);
    r.num_layers = 1 << 20;
    r.loads.assign(1 << 20, 1);
  });
  refused(shape, "logical_to_physical.size()=2181038080, at most", [](auto& r) {
    r = request(std::vector<double>(4096, 0), 8192, 4096);
    r.num_layers = 130;
    r.loads.assign(4096 * 130, 0);
    r.loads[7] = 1;  // on every rank
  });
  refused(shape, "current.size()=12, need L * S=32", [](auto& r) { r.current.assign(12, 0); });
  refused(shape, "current[1][2]=12, need -1", [](auto& r) {
    r.current = plan_placement(r).physical_to_logical;
    r.current[18] = 12;
  });
  refused(shape, "current[0][15]=-2, need -1", [](auto& r) {
    r.current = plan_placement(r).physical_to_logical;
    r.current[15] = -2;
  });
  refused(shape, "current[0] has no slot of expert 6", [](auto& r) {
    r.current = plan_placement(r).physical_to_logical;
    std::ranges::replace(r.current, 6, -1);
  });
  refused(routing, "loads[1][11]=-1", [](auto& r) { r.loads[23] = -1; });
  refused(routing, "loads[0][0]=nan", [](auto& r) { r.loads[0] = std::nan(""); });
  refused(routing, "loads[0][5]=inf", [](auto& r) { r.loads[5] = INFINITY; });
  refused(routing, "sum of loads[1]=2e+300", [](auto& r) { r.loads[20] = r.loads[21] = 1e300; });
  PlacementRequest most = published_request();
  most.loads[0] = most.loads[1] = 5e299;
  EXPECT_GE(plan_placement(most).imbalance[0], 1);
}

TEST(Placement, IsWhatTheGuideShows) {
  // [plan]
  PlacementRequest request;
  request.num_experts = 8;
  request.loads = {40, 10, 10, 10, 10, 10, 5, 5};  // tokens that chose each expert
  request.num_ranks = 4;
  request.num_slots = 12;  // 3 on each rank
  const Placement placement = plan_placement(request);

  // Expert 0 is on every rank: a token may take any of these slots.
  const int32_t* slots = placement.logical_to_physical.data();  // of expert 0 of layer 0
  const int32_t count = placement.replica_counts[0];
  // [plan]
  EXPECT_EQ(Slots(slots, slots + count), (Slots{0, 4, 7, 10}));
  EXPECT_EQ(placement.imbalance[0], 1);
  EXPECT_EQ(placement.imbalance_before[0], 2);
}

}  // namespace
}  // namespace switchyard
