// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/group_rows_test.cc -- groups from the expert of every row, against cases by hand.
#include "cpu/run.h"

#include <gtest/gtest.h>

#include "base/backend.h"
#include "base/status.h"
#include "testing/cpu_ops.h"
#include "testing/m_indices.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

struct Grouped {
  Grouped(const std::vector<int32_t>& experts_of_rows, int64_t num_experts)
      : counts({num_experts}), first_row({num_experts + 1}) {
    Buffer<int32_t> row_expert({static_cast<int64_t>(experts_of_rows.size())});
    std::copy(experts_of_rows.begin(), experts_of_rows.end(), row_expert.data());
    Buffer<int32_t> words({kStatusWords});
    std::fill_n(words.data(), kStatusWords, 0);
    run_plain(GroupRows{{counts.view(), first_row.view()}, row_expert.view(), 2, words.view()});
    EXPECT_TRUE(counts.guards_intact() && first_row.guards_intact());
    status = *words.view().as<StatusWords>();
  }
  Buffer<int32_t> counts;
  Buffer<int64_t> first_row;
  StatusWords status;
};

using Counts = std::vector<int32_t>;
using Rows = std::vector<int64_t>;

void expect_groups(const std::vector<int32_t>& rows, const Counts& counts, const Rows& first) {
  const Grouped g(rows, static_cast<int64_t>(counts.size()));
  EXPECT_TRUE(g.status.good());
  EXPECT_EQ(g.counts.values(), counts);
  EXPECT_EQ(g.first_row.values(), first);
}

TEST(GroupRows, TakesPaddingAnywhereAndExpertsInAnyOrder) {
  expect_groups({0, 0, 1, 2, 2, 2}, {2, 1, 3}, {0, 2, 3, 6});
  expect_groups({2, 2, -1, 0, 1, 1}, {1, 2, 2}, {3, 4, 0, 6});
  expect_groups({-1, -1, 1, -1, -1, 0, 0, -1}, {2, 1, 0}, {5, 2, 0, 8});
  expect_groups({2}, {0, 0, 1}, {0, 0, 0, 1});
}

TEST(GroupRows, ExpertsWithoutRowsHaveNoneAndStandInside) {
  expect_groups({}, {0, 0}, {0, 0, 0});
  expect_groups({-1, -1, -1}, {0, 0}, {0, 0, 3});
  expect_groups({-1, 3, 3}, {0, 0, 0, 2}, {0, 0, 0, 1, 3});
}

void expect_fault(const std::vector<int32_t>& rows, int32_t row) {
  SCOPED_TRACE(row);
  const Grouped g(rows, 3);
  EXPECT_EQ(g.status.code, static_cast<int32_t>(Errc::BadRouting));
  EXPECT_EQ(g.status.detail, static_cast<int32_t>(StatusDetail::RowsNotGrouped));
  EXPECT_EQ(g.status.rank, 2);
  EXPECT_EQ(g.status.value, row);
  EXPECT_EQ(g.counts.values(), (Counts{0, 0, 0})) << "nothing is computed";
  EXPECT_EQ(g.first_row.values(), (Rows{0, 0, 0, static_cast<int64_t>(rows.size())}));
  EXPECT_EQ(status_message(g.status).find("group_rows: row="), 0u);
}

TEST(GroupRows, TheLowestRowAtFaultIsNotedAndNothingIsComputed) {
  expect_fault({0, 0, 1, 0}, 3);
  expect_fault({0, -1, 0}, 2);
  expect_fault({3, 0}, 0);
  expect_fault({0, 1, -2}, 2);
  expect_fault({2, INT32_MAX, 2, INT32_MIN}, 1);
  expect_fault({2, 1, 1, 2, 1, 7}, 3);
}

TEST(GroupRows, ComputesTheRowsOfAPlan) {
  const auto backend = make_cpu_backend(1);
  testing::MIndicesGemm<Buffer> gemm(backend->ops(), GemmProvider::Cpu);
  for (const auto skew : {testing::Skew::Balanced, testing::Skew::Zipf, testing::Skew::OneHot,
                          testing::Skew::NoExpert, testing::Skew::SomeMissing})
    gemm.expect_rows_of_plan(skew);
}

TEST(GroupRows, ComputesGroupsInAnyOrder) {
  const auto backend = make_cpu_backend(1);
  testing::MIndicesGemm<Buffer> gemm(backend->ops(), GemmProvider::Cpu);
  for (const int64_t alignment : {1, 8, 128})
    for (const uint64_t seed : {1, 2, 3}) gemm.expect_rows_in_any_order(alignment, seed);
}

}  // namespace
}  // namespace switchyard::cpu
