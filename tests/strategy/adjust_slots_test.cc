// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/strategy/adjust_slots_test.cc -- changes of a placement that runs, one by one, beside a plain
// form that tries each of them and counts loads anew.
#include "strategy/adjust_slots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "switchyard/placement.h"

namespace switchyard {
namespace {

using Slots = std::vector<int32_t>;
using Loads = std::vector<double>;

Loads rank_loads(const Slots& slots, const Loads& loads, size_t rank_slots) {
  Loads ranks(slots.size() / rank_slots, 0);
  for (size_t s = 0; s < slots.size(); ++s)
    ranks[s / rank_slots] +=
        loads[slots[s]] / static_cast<double>(std::ranges::count(slots, slots[s]));
  return ranks;
}

bool holds(const Slots& slots, size_t rank, int32_t expert, size_t rank_slots) {
  const auto first = slots.begin() + static_cast<ptrdiff_t>(rank * rank_slots);
  return std::find(first, first + static_cast<ptrdiff_t>(rank_slots), expert) !=
         first + static_cast<ptrdiff_t>(rank_slots);
}

// By how much of itself the busiest rank's load exceeds the most of `ranks` afterwards.
double gain_of(const Slots& after, const Loads& loads, const std::vector<size_t>& ranks,
               double most, size_t rank_slots) {
  const Loads then = rank_loads(after, loads, rank_slots);
  double largest = 0;
  for (const size_t rank : ranks) largest = std::max(largest, then[rank]);
  return (most - largest) / most;
}

// The first of the best changes of one kind, after which the slots are these.
struct Change {
  Slots after;
  double gain = 0;

  void offer(const Slots& slots, double offered) {
    if (offered > gain) after = slots, gain = offered;
  }
};

struct Plain {
  Slots slots;
  Loads loads;
  SlotShape shape;

  size_t busiest() const {
    const Loads ranks = rank_loads(slots, loads, shape.rank_slots);
    return static_cast<size_t>(std::ranges::max_element(ranks) - ranks.begin());
  }
  double most() const { return rank_loads(slots, loads, shape.rank_slots)[busiest()]; }
  bool same_node(size_t a, size_t b) const { return a / shape.node_ranks == b / shape.node_ranks; }

  Change exchange() const {
    const size_t size = shape.rank_slots, from = busiest();
    Change best;
    for (size_t to = 0; to < slots.size() / size; ++to) {
      if (to == from || !same_node(from, to)) continue;
      for (size_t a = from * size; a < (from + 1) * size; ++a)
        for (size_t b = to * size; b < (to + 1) * size; ++b) {
          if (holds(slots, to, slots[a], size) || holds(slots, from, slots[b], size)) continue;
          Slots after = slots;
          std::swap(after[a], after[b]);
          best.offer(after, gain_of(after, loads, {from, to}, most(), size));
        }
    }
    return best;
  }

  Change replica() const {
    const size_t size = shape.rank_slots, from = busiest();
    Change best;
    for (size_t s = 0; s < slots.size(); ++s) {
      if (!same_node(from, s / size) || std::ranges::count(slots, slots[s]) < 2) continue;
      for (size_t a = from * size; a < (from + 1) * size; ++a) {
        if (holds(slots, s / size, slots[a], size)) continue;
        Slots after = slots;
        after[s] = slots[a];
        std::vector<size_t> touched{s / size};
        for (size_t rank = 0; rank < slots.size() / size; ++rank)
          if (holds(slots, rank, slots[a], size) || holds(slots, rank, slots[s], size))
            touched.push_back(rank);
        best.offer(after, gain_of(after, loads, touched, most(), size));
      }
    }
    return best;
  }
};

struct Drawn {
  Plain layer;
  double target = 0;
};

// Multiples of what divides any number of replicas: loads and their sums are exact.
Loads drawn_loads(std::mt19937_64& rng, int64_t experts) {
  Loads loads;
  for (int64_t e = 0; e < experts; ++e)
    loads.push_back(27720.0 * static_cast<double>(1 + rng() % (rng() % 4 == 0 ? 60 : 12)));
  return loads;
}

Drawn drawn(uint64_t seed) {
  std::mt19937_64 rng(seed);
  PlacementRequest r;
  r.num_ranks = static_cast<int>(2 + rng() % 4);
  r.num_nodes = r.num_ranks % 2 == 0 && seed % 3 == 0 ? 2 : 1;
  r.num_groups = r.num_nodes;
  r.num_experts = 2 * r.num_ranks + 2 * static_cast<int64_t>(rng() % 4);
  r.num_slots = (r.num_experts + r.num_ranks - 1) / r.num_ranks * r.num_ranks +
                r.num_ranks * static_cast<int64_t>(rng() % 2);
  r.loads = drawn_loads(rng, r.num_experts);
  const Placement runs = plan_placement(r);
  r.loads = drawn_loads(rng, r.num_experts);
  const Placement anew = plan_placement(r);
  const size_t nodes = runs.hierarchical ? static_cast<size_t>(r.num_nodes) : 1;
  const SlotShape shape{static_cast<size_t>(r.num_slots / r.num_ranks),
                        static_cast<size_t>(r.num_ranks) / nodes};
  return {{runs.physical_to_logical, r.loads, shape}, 1.01 * std::ranges::max(anew.rank_loads)};
}

TEST(AdjustSlots, IsItsPlainForm) {
  int exchanges = 0, replicas = 0, reached = 0, given_up = 0;
  for (uint64_t seed = 0; seed < 600; ++seed) {
    auto [plain, target] = drawn(seed);
    Slots slots = plain.slots;
    const bool good = adjust_slots(slots, plain.loads, plain.shape, target);
    for (size_t changes = 0; plain.most() > target && changes < slots.size(); ++changes) {
      const Change exchange = plain.exchange(), replica = plain.replica();
      if (std::max(exchange.gain, replica.gain) <= Exchanges::kWorthIt) break;
      const bool another = replica.gain > exchange.gain;
      ++(another ? replicas : exchanges);
      plain.slots = another ? replica.after : exchange.after;
    }
    ASSERT_EQ(good, plain.most() <= target) << seed;
    ++(good ? reached : given_up);
    ASSERT_EQ(slots, plain.slots) << seed;
  }
  EXPECT_GT(exchanges, 200);
  EXPECT_GT(replicas, 200);
  EXPECT_GT(reached, 100);
  EXPECT_GT(given_up, 50);
}

// Expert 0 was hot, expert 5 is: no exchange helps, one slot does.
TEST(AdjustSlots, GivesASlotOfWhatHasSeveralToWhatIsHot) {
  Slots slots{0, 1, 0, 2, 3, 4, 5, 6};
  const Loads loads{4, 2, 2, 2, 2, 12, 2};
  EXPECT_EQ(std::ranges::max(rank_loads(slots, loads, 2)), 14);
  EXPECT_TRUE(adjust_slots(slots, loads, {2, 4}, 10));
  EXPECT_EQ(std::ranges::count(slots, 5), 2);
  EXPECT_EQ(std::ranges::count(slots, 0), 1);
  EXPECT_LE(std::ranges::max(rank_loads(slots, loads, 2)), 10);
}

TEST(AdjustSlots, LeavesWhatIsEvenEnough) {
  Slots slots{0, 1, 2, 3};
  const Slots before = slots;
  EXPECT_TRUE(adjust_slots(slots, Loads{4, 3, 2, 1}, {2, 2}, 7));
  EXPECT_EQ(slots, before);
  EXPECT_FALSE(adjust_slots(slots, Loads{10, 0, 0, 0}, {2, 2}, 9));
}

}  // namespace
}  // namespace switchyard
