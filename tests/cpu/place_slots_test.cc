// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/place_slots_test.cc
#include "cpu/run.h"

#include <gtest/gtest.h>

#include "testing/buffer.h"
#include "testing/cpu_ops.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

Buffer<int32_t> filled(Shape shape, std::initializer_list<int32_t> values) {
  Buffer<int32_t> b(shape);
  std::copy(values.begin(), values.end(), b.data());
  return b;
}

// Of 7 experts ranks own 3, 3 and 1.
TEST(PlaceSlots, ASlotStandsAtItsNumberInTheRowThatItsOwnerSendsBack) {
  const auto rows = filled({3, 3}, {4, kNoRow, 9, kNoRow, 6, kNoRow, 5, 7, kNoRow});
  const auto ids = filled({3, 2}, {6, 2, -1, 5, 3, 0});
  Buffer<int32_t> dst({3, 2});
  run_plain(PlaceSlots{dst.view(), rows.view(), ids.view(), 7});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{18, 9, kNoRow, 13, 14, 11}));
  EXPECT_TRUE(dst.guards_intact());
}

TEST(PlaceSlots, NoTokensHaveNoSlots) {
  Buffer<int32_t> dst({0, 2}), ids({0, 2}), rows({0, 3});
  run_plain(PlaceSlots{dst.view(), rows.view(), ids.view(), 7});
  EXPECT_TRUE(dst.guards_intact());
}

}  // namespace
}  // namespace switchyard::cpu
