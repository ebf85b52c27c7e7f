// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/rows_test.cc -- scatter, gather and combine of the GPU give the CPU's bits.
#include <gtest/gtest.h>

#include <algorithm>

#include "testing/both.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;
using testing::cuda_ops;
using testing::run_on_both;

constexpr uint64_t kSeed = 20252;

struct RowsCase {
  int64_t capacity, num_rows, top_k, hidden;

  int64_t places() const { return capacity * top_k + 5; }
};

std::ostream& operator<<(std::ostream& os, const RowsCase& c) {
  return os << "seed " << kSeed << ", capacity " << c.capacity << ", rows " << c.num_rows << ", K "
            << c.top_k << ", H " << c.hidden;
}

// Every width, few rows and many, up to more than a grid has blocks.
std::vector<RowsCase> rows_cases() {
  std::vector<RowsCase> cases;
  for (const int64_t hidden : {64, 704, 2880, 7168})
    for (const int64_t top_k : {1, 2, 8, 10, 16})
      for (const int64_t rows : {0, 1, 3, 33}) cases.push_back({rows + 2, rows, top_k, hidden});
  for (const int64_t top_k : {1, 8, 10}) {
    cases.push_back({1023, 1000, top_k, 704});
    cases.push_back({1100, 1030, top_k, 2880});
    cases.push_back({9000, 8999, top_k, 64});
    cases.push_back({9000, 12, top_k, 64});
  }
  cases.push_back({1024, 1024, 2, 7168});
  cases.push_back({0, 0, 8, 64});
  return cases;
}

TEST(CudaScatterRows, WritesTheCpusBitsAndNoOtherRow) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const RowsCase& c : rows_cases()) {
    SCOPED_TRACE(::testing::Message() << c);
    Both<Bf16> src(testing::random_bf16({c.capacity, c.hidden}, kSeed));
    Both<int32_t> places(testing::random_places(c.capacity, c.top_k, c.places(), kSeed));
    auto count = Both<int32_t>::of({static_cast<int32_t>(c.num_rows)});
    Both<Bf16> dst({c.places(), c.hidden});
    run_on_both([&](auto at) { return ScatterRows{at(dst), {at(src)}, at(places), at(count)}; });
    ASSERT_TRUE(dst.same());
  }
}

// Scales beside codes: rows of 4, 12, 92 and 224 bytes.
TEST(CudaScatterRows, RowsOfAnyMultipleOfFourBytesAreTheCpus) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t width : {1, 3, 23, 56})
    for (const int64_t capacity : {9, 1100}) {
      Both<float> src(testing::random_f32({capacity, width}, kSeed));
      Both<int32_t> places(testing::random_places(capacity, 3, 4 * capacity, kSeed));
      auto count = Both<int32_t>::of({static_cast<int32_t>(capacity - 2)});
      Both<float> dst({4 * capacity, width});
      run_on_both([&](auto at) { return ScatterRows{at(dst), {at(src)}, at(places), at(count)}; });
      ASSERT_TRUE(dst.same()) << width << " of " << capacity;
    }
}

TEST(CudaGatherRows, GivesTheCpusBitsWithAndWithoutWeightsAndAddend) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  int options = 0;
  for (const RowsCase& c : rows_cases())
    for (int repeat = 0; repeat < 2; ++repeat, ++options) {
      const KeptRows kept{options / 2 % 2 == 1,
                          options % 5 < 3 ? RowRange{} : RowRange{c.num_rows / 3, c.num_rows / 2}};
      const bool weighted = options % 2 == 0, added = options % 3 > 0, scaled = options % 3 == 2;
      SCOPED_TRACE(::testing::Message() << c << ", weights " << weighted << ", addend " << added
                                        << ", scale " << scaled);
      Both<Bf16> src(testing::random_bf16({c.places(), c.hidden}, kSeed));
      Both<int32_t> places(testing::random_places(c.capacity, c.top_k, c.places(), kSeed));
      Both<float> weights(testing::random_f32({c.capacity, c.top_k}, kSeed + 1));
      Both<float> rows(testing::random_f32({c.capacity, c.hidden}, kSeed + 2));
      Both<float> scale(testing::random_f32({c.capacity, 1}, kSeed + 3));
      auto count = Both<int32_t>::of({static_cast<int32_t>(c.num_rows)});
      Both<Bf16> dst({c.capacity, c.hidden});
      const auto addend = [&](ConstTensor r, ConstTensor s) {
        return Addend{added ? r : ConstTensor{}, scaled ? s : ConstTensor{}};
      };
      run_on_both([&](auto at) {
        return SumRows{.dst = at(dst),
                       .sums = {at(src), at(places), weighted ? at(weights) : Tensor{}},
                       .addend = addend(at(rows), at(scale)),
                       .num_rows = at(count),
                       .kept = kept};
      });
      ASSERT_TRUE(dst.same());
    }
}

TEST(CudaGatherRows, BecomeTheCpusNaNOnceAStatusIsSet) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int32_t code : {0, 2}) {
    Both<Bf16> src(testing::random_bf16({40, 704}, kSeed));
    Both<int32_t> places(testing::random_places(9, 3, 40, kSeed));
    auto status = Both<int32_t>::of({code, 0, 0, 0, 0});
    Both<Bf16> dst({9, 704});
    Both<float> wide({9, 704});
    run_on_both([&](auto at) {
      return SumRows{.dst = at(dst),
                     .sums = {at(src), at(places), {}},
                     .kept = {false, {4, 2}},
                     .poison = at(status)};
    });
    run_on_both([&](auto at) {
      return SumRows{.dst = at(wide), .sums = {at(src), at(places), {}}, .poison = at(status)};
    });
    EXPECT_TRUE(dst.same());
    EXPECT_TRUE(wide.same());
  }
}

TEST(CudaGatherRows, ASlotWithoutARowAddsNothingWhateverItsWeightIs) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Both<Bf16> src(testing::random_bf16({4, 8}, kSeed));
  Buffer<int32_t> places({1, 2});
  places[0] = 2;
  places[1] = kNoRow;
  Buffer<float> weights({1, 2});
  weights[0] = 1;  // the other stays NaN
  Both<int32_t> at(places), count = Both<int32_t>::of({1});
  Both<float> w(weights);
  Both<Bf16> dst({1, 8});
  cuda_ops().run(SumRows{.dst = dst.gpu(), .sums = {src.gpu(), at.gpu(), w.gpu()}}, nullptr);
  for (int64_t h = 0; h < 8; ++h)
    EXPECT_EQ(dst.computed()[h].bits(), src.expected()[2 * 8 + h].bits());
}

TEST(CudaSumPartials, GivesTheCpusBitsInRankOrder) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const RowsCase& c : rows_cases()) {
    SCOPED_TRACE(::testing::Message() << c);
    Both<Bf16> src(testing::random_bf16({c.places(), c.hidden}, kSeed));
    Both<int32_t> places(testing::random_places(c.num_rows, c.top_k, c.places(), kSeed));
    Both<float> rows(testing::random_f32({c.num_rows, c.hidden}, kSeed + 2));
    Both<Bf16> with({c.num_rows, c.hidden}), without({c.num_rows, c.hidden});
    run_on_both([&](auto at) {
      return SumRows{.dst = at(with), .sums = {at(src), at(places), {}}, .addend = {at(rows), {}}};
    });
    ASSERT_TRUE(with.same());
    run_on_both([&](auto at) {
      return SumRows{.dst = at(without), .sums = {at(src), at(places), {}}};
    });
    ASSERT_TRUE(without.same());
  }
}

// 1 + 3 * 2^-9 rounds up to the next bf16 after 1; added in bf16 one by one, each part vanishes.
TEST(CudaSumPartials, RoundsOnceInFp32) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Buffer<Bf16> parts({4, 8});
  for (int64_t i = 0; i < parts.count(); ++i) parts[i] = Bf16(i < 8 ? 1.0f : 0x1p-9f);
  Buffer<int32_t> order({1, 4});
  for (int32_t p = 0; p < 4; ++p) order[p] = p;
  Both<Bf16> src(parts), dst({1, 8});
  Both<int32_t> places(order);
  cuda_ops().run(SumRows{.dst = dst.gpu(), .sums = {src.gpu(), places.gpu(), {}}}, nullptr);
  for (int64_t h = 0; h < 8; ++h) EXPECT_EQ(static_cast<float>(dst.computed()[h]), 1.0078125f);
}

}  // namespace
}  // namespace switchyard
