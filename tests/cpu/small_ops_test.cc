// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/run.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/buffer.h"
#include "testing/cpu_ops.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

TEST(SingleGroup, OwnsAllRows) {
  Buffer<int32_t> counts({1});
  Buffer<int64_t> first_row({2});
  run_plain(SingleGroup{{counts.view(), first_row.view()}, 17});
  EXPECT_EQ(counts[0], 17);
  EXPECT_EQ(first_row.values(), (std::vector<int64_t>{0, 17}));
}

TEST(Sigmoid, IsExactAtZeroAndSaturatesWithoutNaN) {
  Buffer<float> x({5, 1}), y({5, 1});
  const float given[] = {0.0f, 2.0f, -2.0f, 200.0f, -200.0f};
  std::copy_n(given, 5, x.data());
  run_plain(Sigmoid{y.view(), std::as_const(x).view()});
  EXPECT_EQ(y[0], 0.5f);
  EXPECT_NEAR(y[1], 0.88079708, 1e-7);
  EXPECT_NEAR(y[1] + y[2], 1.0, 1e-7);
  EXPECT_EQ(y[3], 1.0f);
  EXPECT_EQ(y[4], 0.0f);
  EXPECT_TRUE(y.guards_intact());
}

TEST(FillAndCopy, CoverTheirTensorOnly) {
  Buffer<int32_t> a({3, 5}), b({3, 5});
  run_plain(FillI32{a.view(), -1});
  run_plain(Copy{b.view(), std::as_const(a).view()});
  EXPECT_EQ(a.values(), std::vector<int32_t>(15, -1));
  EXPECT_TRUE(testing::same_bits(a, b));
  EXPECT_TRUE(a.guards_intact() && b.guards_intact());
  run_plain(Copy{Tensor(b.data(), {0, 5}), ConstTensor()});
  EXPECT_TRUE(testing::same_bits(a, b));
}

TEST(WriteI32, CopiesWordsOfTheHost) {
  Buffer<int32_t> a({2, 3}), none({0, 3});
  const int32_t words[] = {1, -2, 3, INT32_MAX, INT32_MIN, 0};
  run_plain(WriteI32{a.view(), words});
  EXPECT_EQ(a.values(), std::vector<int32_t>(words, words + 6));
  run_plain(WriteI32{none.view(), words});
  EXPECT_TRUE(a.guards_intact() && none.guards_intact());
}

TEST(Poison, FillsTheOutputWithNaNOnlyAfterAnError) {
  auto x = testing::random_bf16({4, 8}, 1);
  const auto before = x.values();
  Buffer<int32_t> status({kStatusWords});
  run_plain(FillI32{status.view(), 0});
  run_plain(Poison{x.view(), std::as_const(status).view()});
  for (int64_t i = 0; i < x.count(); ++i)
    EXPECT_EQ(x[i].bits(), before[static_cast<size_t>(i)].bits());
  status[0] = 7;
  run_plain(Poison{x.view(), std::as_const(status).view()});
  for (int64_t i = 0; i < x.count(); ++i) EXPECT_TRUE(std::isnan(static_cast<float>(x[i])));
  EXPECT_TRUE(x.guards_intact());
}

}  // namespace
}  // namespace switchyard::cpu
