// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/path_ops_test.cc
#include "cpu/run.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/buffer.h"
#include "testing/cpu_ops.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

TEST(SplitF32, ThreePartsAddUpToEveryBit) {
  auto x = testing::random_f32({40, 24}, 3, -2.0f, 2.0f);
  x[0] = 0, x[1] = -0.0f, x[2] = 3e38f, x[3] = 1e-30f, x[4] = 1 + 0x1p-23f, x[5] = -(1 - 0x1p-24f);
  Buffer<Bf16> parts({3, 40, 24});
  run_plain(SplitF32{parts.view(), std::as_const(x).view()});
  EXPECT_TRUE(parts.guards_intact());
  bool some_need_three = false;
  for (int64_t i = 0; i < x.count(); ++i) {
    const float third = static_cast<float>(parts[2 * x.count() + i]);
    some_need_three |= third != 0;
    EXPECT_EQ(static_cast<float>(parts[i]) + (static_cast<float>(parts[x.count() + i]) + third),
              x[i]);
  }
  EXPECT_TRUE(some_need_three);
}

TEST(SplitZeroExperts, SumsTheirWeightsAndLeavesTheOthers) {
  Buffer<int32_t> ids({3, 3});
  Buffer<float> weights({3, 3}), identity({3});
  const int32_t given[] = {0, 4, 5, -1, 3, 6, INT32_MIN, 2, 5};
  const int32_t wanted[] = {0, -1, -1, -1, 3, 6, INT32_MIN, 2, -1};  // 6 is for others to refuse
  for (int i = 0; i < 9; ++i) ids[i] = given[i], weights[i] = static_cast<float>(1 << i);
  run_plain(SplitZeroExperts{ids.view(), identity.view(), std::as_const(ids).view(),
                             std::as_const(weights).view(), 4, 6});
  EXPECT_EQ(ids.values(), std::vector<int32_t>(wanted, wanted + 9));
  EXPECT_EQ(identity.values(), (std::vector<float>{2 + 4, 0, 256}));
}

TEST(NormRows, DividesByTheRootMeanSquare) {
  Buffer<Bf16> x({2, 8}), y({2, 8});
  Buffer<float> weight({8}), inverse({2});
  for (int i = 0; i < 8; ++i) {
    x[i] = Bf16(i % 2 ? 3.0f : -4.0f), x[8 + i] = Bf16(0.0f);
    weight[i] = static_cast<float>(i);
  }
  ThreadPool pool(1);
  NormRows norm{.dst = y.view(),
                .inverse = inverse.view(),
                .src = std::as_const(x).view(),
                .weight = std::as_const(weight).view(),
                .epsilon = 0.0625f};
  run(norm, {pool});
  const float root = std::sqrt(12.5f + 0.0625f);
  EXPECT_NEAR(inverse[0], 1 / root, 1e-7f);
  EXPECT_EQ(inverse[1], 4.0f);
  for (int i = 0; i < 8; ++i) {
    const float value = (i % 2 ? 3.0f : -4.0f) / root * static_cast<float>(i);
    EXPECT_NEAR(static_cast<float>(y[i]), value, std::abs(value) * 0x1p-8f);
    EXPECT_EQ(static_cast<float>(y[8 + i]), 0.0f);
  }
  norm.inverse = {};
  norm.dst = x.view();  // in place
  run(norm, {pool});
  EXPECT_TRUE(testing::same_bits(x, y));
}

TEST(WeighShared, SumsInOrder) {
  const auto src = testing::random_f32({3, 5, 16}, 1), weights = testing::random_f32({5, 3}, 2);
  Buffer<float> dst({5, 16});
  ThreadPool pool(2);
  run(WeighShared{dst.view(), src.view(), weights.view()}, {pool});
  for (int64_t t = 0; t < 5; ++t)
    for (int64_t i = 0; i < 16; ++i) {
      double sum = 0;
      for (int64_t s = 0; s < 3; ++s)
        sum += double{weights[t * 3 + s]} * double{src[(s * 5 + t) * 16 + i]};
      EXPECT_NEAR(dst[t * 16 + i], sum, 1e-6);
    }
  EXPECT_TRUE(dst.guards_intact());
}

TEST(AddRows, RoundsOnceAfterTheSum) {
  const auto src = testing::random_f32({4, 16}, 1), more = testing::random_f32({4, 16}, 2),
             scale = testing::random_f32({4}, 3);
  Buffer<Bf16> dst({4, 16});
  ThreadPool pool(2);
  for (const bool has_scale : {false, true}) {
    run(AddRows{dst.view(), src.view(), {more.view(), has_scale ? scale.view() : ConstTensor()}},
        {pool});
    for (int64_t i = 0; i < src.count(); ++i) {
      const double sum = double{src[i]} + double{more[i]} * (has_scale ? scale[i / 16] : 1.0f);
      EXPECT_NEAR(static_cast<float>(dst[i]), sum, std::abs(sum) * 0x1p-8 + 1e-6);
    }
  }
  run(AddRows{dst.view(), src.view(), {}}, {pool});
  for (int64_t i = 0; i < src.count(); ++i) EXPECT_EQ(dst[i].bits(), Bf16(src[i]).bits());
}

}  // namespace
}  // namespace switchyard::cpu
