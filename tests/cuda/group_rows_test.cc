// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/group_rows_test.cc -- groups from the expert of every row are the CPU's, bit for bit.
#include <gtest/gtest.h>

#include "testing/both.h"
#include "testing/m_indices.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;

void expect_same_groups(const Buffer<int32_t>& row_expert, int64_t experts,
                        int32_t code_before = 0) {
  Both<int32_t> given(row_expert), counts({experts});
  Both<int64_t> first_row({experts + 1});
  auto status = Both<int32_t>::of({code_before, 0, 0, 0, 0});
  testing::run_on_both([&](auto at) {
    return GroupRows{{at(counts), at(first_row)}, at(given), 3, at(status)};
  });
  EXPECT_TRUE(counts.same()) << "counts";
  EXPECT_TRUE(first_row.same()) << "first_row";
  EXPECT_TRUE(status.same()) << "status";
}

// Good rows, then the same with one or two rows replaced.
void expect_same_groups_also_broken(Buffer<int32_t> rows, int64_t experts, uint64_t seed) {
  expect_same_groups(rows, experts);
  if (rows.count() == 0) return;
  std::mt19937_64 rng(seed);
  const int32_t wrong[] = {
      -1,        -2,       0, static_cast<int32_t>(experts - 1), static_cast<int32_t>(experts),
      INT32_MAX, INT32_MIN};
  for (int i = 0; i < 6; ++i) {
    auto broken = rows;
    for (int changes = 0; changes < 1 + i % 2; ++changes)
      broken[static_cast<int64_t>(rng() % static_cast<uint64_t>(rows.count()))] = wrong[rng() % 7];
    expect_same_groups(broken, experts);
  }
}

TEST(CudaGroupRows, IsTheCpusForGroupsAnywhere) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 2, 7, 60, 128, 1025, 4096, 8192})
    for (const int64_t most_rows : {0, 1, 5, 300})
      for (const int64_t alignment : {1, 8, 128}) {
        if (experts * (most_rows + alignment) > int64_t{1} << 20) continue;
        const auto seed = static_cast<uint64_t>(experts * 1000 + most_rows + alignment);
        SCOPED_TRACE(::testing::Message() << "E " << experts << ", rows up to " << most_rows
                                          << ", alignment " << alignment << ", seed " << seed);
        expect_same_groups_also_broken(
            testing::random_m_indices(experts, most_rows, alignment, seed), experts, seed);
        if (HasFailure()) return;
      }
}

TEST(CudaGroupRows, IsTheCpusForNoRowsPaddingOnlyAndOneExpert) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {0, 1, 31, 1024, 8191, 8192, 8193, 100'000})
    for (const int32_t value : {-1, 0, 4, 5, -7}) {
      Buffer<int32_t> row_expert({rows});
      std::fill_n(row_expert.data(), rows, value);
      SCOPED_TRACE(::testing::Message() << rows << " rows of " << value);
      expect_same_groups(row_expert, 5);
    }
}

TEST(CudaGroupRows, IsTheCpusForRowsWithoutAnyOrder) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {2, 100, 20'000}) {
    Buffer<int32_t> row_expert({rows});
    std::mt19937_64 rng(9);
    for (int64_t r = 0; r < rows; ++r) row_expert[r] = static_cast<int32_t>(rng() % 64) - 1;
    SCOPED_TRACE(rows);
    expect_same_groups(row_expert, 63);
    expect_same_groups(row_expert, 8);
  }
}

TEST(CudaGroupRows, AnErrorThatWasNotedBeforeStays) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Buffer<int32_t> row_expert({3});
  row_expert[0] = row_expert[2] = 1;
  row_expert[1] = 0;
  expect_same_groups(row_expert, 2, 2);
}

std::vector<GemmProvider> providers() {
  std::vector<GemmProvider> all = {GemmProvider::Cublas};
  if (testing::cuda_backend().provider() == GemmProvider::Hopper)
    all.push_back(GemmProvider::Hopper);
  return all;
}

TEST(CudaGroupRows, ComputesTheRowsOfAPlan) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const auto provider : providers()) {
    SCOPED_TRACE(provider_name(provider));
    testing::MIndicesGemm<testing::CudaBuffer> gemm(testing::cuda_ops(), provider);
    for (const auto skew : {testing::Skew::Balanced, testing::Skew::Zipf, testing::Skew::OneHot,
                            testing::Skew::NoExpert, testing::Skew::SomeMissing})
      gemm.expect_rows_of_plan(skew);
  }
}

// cuBLAS may choose another order of summation where a group's address is aligned otherwise.
TEST(CudaGroupRows, ComputesGroupsInAnyOrder) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  if (testing::cuda_backend().provider() != GemmProvider::Hopper)
    GTEST_SKIP() << "no Hopper: equal bits are its promise";
  testing::MIndicesGemm<testing::CudaBuffer> gemm(testing::cuda_ops(), GemmProvider::Hopper);
  for (const int64_t alignment : {1, 8, 128})
    for (const uint64_t seed : {1, 2, 3}) gemm.expect_rows_in_any_order(alignment, seed);
}

}  // namespace
}  // namespace switchyard
