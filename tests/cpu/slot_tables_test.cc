// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/slot_tables_test.cc -- ids become weight slots: which replica, and what is counted.
#include <gtest/gtest.h>

#include <cmath>

#include "cpu/slot_tables.h"
#include "layer/slot_table.h"
#include "testing/cpu_ops.h"
#include "testing/placed_layer.h"
#include "testing/routing.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

// Tables of a device, the second of them in use.
struct Tables {
  explicit Tables(const std::vector<int32_t>& slots, int64_t num_experts)
      : active({1}),
        tables({2, num_experts + 1 + static_cast<int64_t>(slots.size())}),
        loads({num_experts}) {
    const auto table = slot_table(slots, num_experts);
    std::copy(table.begin(), table.end(), tables.data() + table.size());
    active[0] = active_word(table, 1);
    for (int64_t e = 0; e < num_experts; ++e) loads[e] = 100;
  }
  SlotTables view() {
    return {.num_experts = loads.count(),
            .active = active.view(),
            .tables = tables.view(),
            .loads = loads.view()};
  }
  Buffer<int32_t> active, tables;  // the first table is poison
  Buffer<int64_t> loads;
};

Buffer<int32_t> placed(Tables& tables, const Buffer<int32_t>& ids, const Buffer<float>& weights,
                       bool by_token = false) {
  Buffer<int32_t> dst(ids.view().shape), status({kStatusWords});
  run_plain(FillI32{status.view(), 0});
  SlotTables view = tables.view();
  view.by_token = by_token;
  run_plain(ResolveIds{dst.view(),
                       ids.view(),
                       {},
                       tables.loads.count(),
                       true,
                       0,
                       status.view(),
                       view,
                       weights.view()});
  return dst;
}

TEST(SlotTables, GiveTheSlotsOfTheDefinitionAndCount) {
  const auto slots = testing::random_slots(24, 40, 3);
  Tables tables(slots, 24);
  const auto ids = testing::random_ids(300, 24, 6, testing::Skew::Zipf, 5);
  const auto weights = testing::random_f32({300, 6}, 6, 0.0f, 1.0f);
  for (const bool by_token : {false, true}) {
    const auto got = placed(tables, ids, weights, by_token);
    EXPECT_EQ(got.values(), testing::expected_slots(slots, ids, weights, by_token).values());
    for (int64_t i = 0; i < ids.count(); ++i)
      if (ids[i] >= 0) {
        EXPECT_EQ(slots[static_cast<size_t>(got[i])], ids[i]);
      }
  }
  std::vector<int64_t> expected(24, 100);
  for (int64_t i = 0; i < ids.count(); ++i)
    if (ids[i] >= 0) expected[static_cast<size_t>(ids[i])] += 2;
  EXPECT_EQ(tables.loads.values(), expected);
}

// Binomial: within 5 standard deviations of an even share.
TEST(SlotTables, ReplicasShareEvenly) {
  for (const int32_t count : {2, 3, 5, 8}) {
    std::vector<int32_t> slots(static_cast<size_t>(count), 0);
    slots.push_back(1);
    Tables tables(slots, 2);
    Buffer<int32_t> ids({40000, 1});
    run_plain(FillI32{ids.view(), 0});
    for (const bool by_token : {false, true}) {
      const auto weights =
          testing::random_f32({40000, 1}, static_cast<uint64_t>(count), 0.0f, 1.0f);
      const auto got = placed(tables, ids, weights, by_token);
      std::vector<double> shares(static_cast<size_t>(count));
      for (int64_t i = 0; i < got.count(); ++i) ++shares[static_cast<size_t>(got[i])];
      const double p = 1.0 / count, deviation = std::sqrt(40000 * p * (1 - p));
      for (const double share : shares)
        EXPECT_NEAR(share, 40000 * p, 5 * deviation) << count << " replicas";
    }
  }
}

// So no result depends on where a token stands, or what stands beside it.
TEST(SlotTables, ATokenGoesToTheSameSlotsWhereverItStands) {
  const auto slots = testing::random_slots(8, 32, 3);
  Tables tables(slots, 8);
  const auto ids = testing::random_ids(50, 8, 3, testing::Skew::Balanced, 5);
  const auto weights = testing::random_f32({50, 3}, 6, 0.0f, 1.0f);
  Buffer<int32_t> turned({50, 3});
  Buffer<float> turned_weights({50, 3});
  const auto at = [](int64_t i) { return (i / 3 + 17) % 50 * 3 + i % 3; };
  for (int64_t i = 0; i < ids.count(); ++i)
    turned[at(i)] = ids[i], turned_weights[at(i)] = weights[i];
  const auto got = placed(tables, ids, weights), later = placed(tables, turned, turned_weights);
  for (int64_t i = 0; i < ids.count(); ++i) EXPECT_EQ(later[at(i)], got[i]);
}

TEST(SlotTables, WhatIsNoExpertHasNoSlot) {
  Tables tables({1, 0, 0}, 2);
  const SlotsView view(tables.view());
  EXPECT_EQ(place_id(view, -1, 0, 1.0f), -1);
  EXPECT_EQ(place_id(view, 2, 0, 1.0f), INT32_MIN) << "a slot, but no expert";
  EXPECT_EQ(place_id(view, INT32_MIN, 0, 1.0f), INT32_MIN);
  EXPECT_EQ(place_id(view, 1, 0, 1.0f), 0);
  EXPECT_EQ(tables.loads.values(), (std::vector<int64_t>{100, 101}));
  SlotTables only_counts = tables.view();
  only_counts.active = {};
  EXPECT_EQ(place_id(SlotsView(only_counts), 1, 0, 1.0f), 1);
  EXPECT_EQ(place_id(SlotsView(only_counts), 7, 0, 1.0f), 7);
  EXPECT_EQ(tables.loads.values(), (std::vector<int64_t>{100, 102}));
}

TEST(SlotTables, WordsSayContentsAndTable) {
  const auto one = slot_table(std::vector<int32_t>{0, 1, 1, -1}, 2);
  EXPECT_EQ(one, (std::vector<int32_t>{0, 1, 3, 0, 1, 2, -1}));
  const auto other = slot_table(std::vector<int32_t>{1, 0, 1, -1}, 2);
  EXPECT_TRUE(same_placement(active_word(one, 0), active_word(one, 1)));
  EXPECT_NE(active_word(one, 0), active_word(one, 1));
  EXPECT_FALSE(same_placement(active_word(one, 0), active_word(other, 0)));
  EXPECT_GE(active_word(other, 1), 0);
}

}  // namespace
}  // namespace switchyard::cpu
