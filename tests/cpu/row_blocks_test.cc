// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/row_blocks_test.cc -- which row goes where, by numbers that name their origin.
#include "cpu/run.h"

#include <gtest/gtest.h>

#include "testing/buffer.h"
#include "testing/cpu_ops.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

constexpr int32_t kPoison = 0x7FFFFFFF;

Buffer<int32_t> filled(Shape shape, std::initializer_list<int32_t> values) {
  Buffer<int32_t> b(shape);
  std::copy(values.begin(), values.end(), b.data());
  return b;
}

// Rank 1 of 3 sends 2, 1, 0 rows and gets 1, 1, 2.
Buffer<int32_t> counts() {
  return filled({3, 3}, {5, 1, 5, 2, 1, 0, 5, 2, 5});
}

TEST(PackRows, PutsTheRowsForEachRankAtTheHeadOfItsBlock) {
  auto src = filled({4, 1}, {10, 11, 12, 13}), rows = filled({3}, {3, 0, 2}), all = counts();
  Buffer<int32_t> dst({6, 1});
  run_plain(PackRows{dst.view(), src.view(), rows.view(), all.view(), 1, 2});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{13, 10, 12, kPoison, kPoison, kPoison}));
}

TEST(PackRows, TakesRowsInTheirOrderWithoutAList) {
  auto src = filled({3, 2}, {10, 20, 11, 21, 12, 22}), all = counts();
  Buffer<int32_t> dst({6, 2});
  run_plain(PackRows{dst.view(), src.view(), {}, all.view(), 1, 2});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{10, 20, 11, 21, 12, 22, kPoison, kPoison, kPoison,
                                                kPoison, kPoison, kPoison}));
}

TEST(PackRows, LeavesNoGapsWithoutBlocks) {
  auto src = filled({4, 1}, {10, 11, 12, 13}), rows = filled({3}, {3, 0, 2}), all = counts();
  Buffer<int32_t> dst({6, 1});
  run_plain(PackRows{dst.view(), src.view(), rows.view(), all.view(), 1, 0});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{13, 10, 12, kPoison, kPoison, kPoison}));
}

TEST(UnpackRows, TakesWhatCameBySourceRankAndItsOwnRowsFromWhatItPacked) {
  auto came = filled({6, 1}, {100, 101, 110, 111, 120, 121});
  auto own = filled({6, 1}, {200, 201, 210, 211, 220, 221}), all = counts();
  Buffer<int32_t> dst({6, 1});
  run_plain(UnpackRows{dst.view(), came.view(), own.view(), all.view(), 1, 2});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{100, 210, 120, 121, kPoison, kPoison}));
  EXPECT_TRUE(dst.guards_intact());
}

TEST(Blocks, NoRowsMoveNothing) {
  auto none = filled({2, 2}, {0, 0, 0, 0});
  Buffer<int32_t> src({4, 1}), dst({4, 1}), own({4, 1});
  run_plain(PackRows{dst.view(), src.view(), {}, none.view(), 0, 2});
  run_plain(UnpackRows{dst.view(), src.view(), own.view(), none.view(), 0, 2});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>(4, kPoison)));
}

}  // namespace
}  // namespace switchyard::cpu
