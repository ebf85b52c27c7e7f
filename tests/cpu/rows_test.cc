// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/rows_test.cc -- the fast forms of scatter, gather and combine give the plain forms'
// bits.
#include "cpu/rows.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/buffer.h"
#include "testing/cpu_ops.h"
#include "testing/instruction_sets.h"
#include "testing/routing.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

class SumRowsForms : public testing::EveryInstructionSet {};
SWITCHYARD_FOR_EVERY_INSTRUCTION_SET(SumRowsForms);

Buffer<int32_t> number(int32_t value) {
  Buffer<int32_t> one({1});
  one[0] = value;
  return one;
}

TEST(ScatterRows, FastEqualsPlainAndTouchesNamedRowsOnly) {
  for (const int64_t hidden : {8, 40, 64, 2048})
    for (const int32_t rows : {0, 1, 37}) {
      const auto src = testing::random_bf16({40, hidden}, 1);
      const auto places = testing::random_places(40, 3, 150, 2);
      const auto count = number(rows);
      Buffer<Bf16> plain({150, hidden}), fast({150, hidden});
      ThreadPool pool(3);
      run_plain(ScatterRows{plain.view(), {src.view()}, places.view(), count.view()});
      run(ScatterRows{fast.view(), {src.view()}, places.view(), count.view()}, {pool});
      EXPECT_TRUE(testing::same_bits(plain, fast)) << hidden << " " << rows;
      EXPECT_TRUE(fast.guards_intact());
    }
}

TEST(ScatterRows, MovesRowsOfAnyDtype) {
  const auto src = testing::random_f32({5, 3}, 1);
  Buffer<int32_t> places({5, 2});
  const int32_t to[] = {7, 0, kNoRow, 3, 2, kNoRow, kNoRow, kNoRow, 6, 1};
  std::copy_n(to, 10, places.data());
  Buffer<float> dst({8, 3}), expected = dst;  // both poisoned
  for (const auto& [place, row] : {std::pair{7, 0}, {0, 0}, {3, 1}, {2, 2}, {6, 4}, {1, 4}})
    std::copy_n(src.data() + row * 3, 3, expected.data() + place * 3);
  run_plain(ScatterRows{dst.view(), {src.view()}, places.view(), {}});
  EXPECT_TRUE(testing::same_bits(dst, expected));
  EXPECT_TRUE(dst.guards_intact());
}

TEST_P(SumRowsForms, FastEqualsPlainWithAndWithoutWeightsAndAddend) {
  for (const int64_t hidden : {8, 24, 72, 1024})
    for (const int options : {0, 1, 2, 3, 4, 5}) {
      const auto src = testing::random_bf16({150, hidden}, 1);
      auto places = testing::random_places(33, 4, 150, 2);
      for (int64_t k = 0; k < 4; ++k) places[7 * 4 + k] = kNoRow;
      const KeptRows kept{options % 3 != 0, {11, 5}};
      const auto weights = testing::random_f32({33, 4}, 3);
      const auto rows = testing::random_f32({33, hidden}, 4);
      const auto scale = testing::random_f32({33, 1}, 5);
      const auto count = number(29);
      Addend addend;
      if (options / 2 >= 1) addend.rows = rows.view();
      if (options / 2 == 2) addend.scale = scale.view();
      const ConstTensor w = options % 2 ? weights.view() : ConstTensor{};
      Buffer<Bf16> plain({33, hidden}), fast({33, hidden});
      ThreadPool pool(3);
      const SlotSums sums{src.view(), places.view(), w};
      run_plain(SumRows{.dst = plain.view(),
                        .sums = sums,
                        .addend = addend,
                        .num_rows = count.view(),
                        .kept = kept});
      run(SumRows{.dst = fast.view(),
                  .sums = sums,
                  .addend = addend,
                  .num_rows = count.view(),
                  .kept = kept},
          {pool});
      EXPECT_TRUE(testing::same_bits(plain, fast)) << hidden << " " << options;
      EXPECT_TRUE(fast.guards_intact());
      EXPECT_EQ(fast[29 * hidden].bits(), 0x7fc1) << "rows past the count stay";
      EXPECT_EQ(fast[7 * hidden].bits() == 0x7fc1, kept.empty);
      for (const int64_t r : {10, 11, 15, 16})
        EXPECT_EQ(fast[r * hidden].bits() == 0x7fc1, r == 11 || r == 15) << "row " << r;
    }
}

TEST_P(SumRowsForms, BecomeNaNOnceAStatusIsSet) {
  const auto src = testing::random_bf16({6, 8}, 1);
  const auto places = testing::random_places(3, 2, 6, 2);
  for (const int32_t code : {0, 2}) {
    Buffer<int32_t> status({kStatusWords});
    for (int64_t i = 0; i < kStatusWords; ++i) status[i] = i == 0 ? code : 0;
    Buffer<Bf16> out({3, 8});
    ThreadPool pool(1);
    run(SumRows{.dst = out.view(),
                .sums = {src.view(), places.view(), {}},
                .kept = {false, {1, 1}},
                .poison = std::as_const(status).view()},
        {pool});
    EXPECT_EQ(out[0].bits() == 0x7fc0, code != 0);
    EXPECT_EQ(out[8].bits(), 0x7fc1) << "a row that is kept stays";
    EXPECT_EQ(out[23].bits() == 0x7fc0, code != 0);
  }
}

TEST_P(SumRowsForms, ASlotWithoutARowAddsNothingWhateverItsWeightIs) {
  const auto src = testing::random_bf16({4, 8}, 1);
  Buffer<int32_t> places({1, 2});
  places[0] = 2;
  places[1] = kNoRow;
  Buffer<float> weights({1, 2});
  weights[0] = 1;
  weights[1] = std::nanf("");
  Buffer<Bf16> out({1, 8});
  ThreadPool pool(1);
  run(SumRows{.dst = out.view(), .sums = {src.view(), places.view(), weights.view()}}, {pool});
  for (int64_t h = 0; h < 8; ++h) EXPECT_EQ(out[h].bits(), src[2 * 8 + h].bits());
}

TEST_P(SumRowsForms, FastEqualsPlainInRankOrder) {
  for (const int64_t hidden : {8, 104, 2048}) {
    const auto src = testing::random_bf16({120, hidden}, 1);
    const auto places = testing::random_places(27, 4, 120, 6);
    const auto rows = testing::random_f32({27, hidden}, 4);
    Buffer<Bf16> plain({27, hidden}), fast({27, hidden});
    ThreadPool pool(2);
    run_plain(SumRows{
        .dst = plain.view(), .sums = {src.view(), places.view(), {}}, .addend = {rows.view(), {}}});
    run(SumRows{.dst = fast.view(),
                .sums = {src.view(), places.view(), {}},
                .addend = {rows.view(), {}}},
        {pool});
    EXPECT_TRUE(testing::same_bits(plain, fast));
    EXPECT_TRUE(fast.guards_intact());
  }
}

TEST_P(SumRowsForms, RoundsOnceInFp32) {
  // 1 + 3 * 2^-9 rounds up to the next bf16 after 1; added in bf16 one by one, each part vanishes.
  Buffer<Bf16> src({4, 8});
  for (int64_t h = 0; h < 8; ++h) {
    src[h] = Bf16(1.0f);
    for (int64_t r = 1; r < 4; ++r) src[r * 8 + h] = Bf16(0x1p-9f);
  }
  Buffer<int32_t> places({1, 4});
  for (int32_t p = 0; p < 4; ++p) places[p] = p;
  Buffer<Bf16> out({1, 8});
  run_plain(SumRows{.dst = out.view(), .sums = {src.view(), places.view(), {}}});
  for (int64_t h = 0; h < 8; ++h) EXPECT_EQ(static_cast<float>(out[h]), 1.0078125f);
}

}  // namespace
}  // namespace switchyard::cpu
