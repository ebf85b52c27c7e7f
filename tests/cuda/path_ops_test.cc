// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/path_ops_test.cc -- what stands around the experts: the CPU's bits, or its sums to
// their rounding.
#include <gtest/gtest.h>

#include <cmath>

#include "testing/both.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;
using testing::cuda_ops;
using testing::run_on_both;

constexpr uint64_t kSeed = 20258;

TEST(CudaSplitF32, GivesTheCpusBits) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {0, 1, 37, 4096}) {
    Both<float> src(testing::random_f32({rows, 200}, kSeed, -3.0f, 3.0f));
    Both<Bf16> dst({3, rows, 200});
    run_on_both([&](auto at) { return SplitF32{at(dst), at(src)}; });
    EXPECT_TRUE(dst.same()) << rows;
  }
}

TEST(CudaSplitZeroExperts, GivesTheCpusBits) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {0, 1, 300, 100'000}) {
    Buffer<int32_t> ids({tokens, 6});
    std::mt19937_64 rng(kSeed);
    for (int64_t i = 0; i < ids.count(); ++i) ids[i] = static_cast<int32_t>(rng() % 27) - 1;
    Both<int32_t> both(ids), apart({tokens, 6});
    Both<float> weights(testing::random_f32({tokens, 6}, kSeed)), identity(Shape{tokens});
    run_on_both([&](auto at) {
      return SplitZeroExperts{at(apart), at(identity), at(both), at(weights), 16, 24};
    });
    EXPECT_TRUE(apart.same() && identity.same()) << tokens;
  }
}

void expect_near(const Buffer<Bf16>& computed, const Buffer<Bf16>& expected) {
  ASSERT_TRUE(computed.guards_intact());
  for (int64_t i = 0; i < expected.count(); ++i) {
    const float value = static_cast<float>(expected[i]);  // a bit of bf16, where sums differ
    ASSERT_NEAR(static_cast<float>(computed[i]), value, std::abs(value) * 0x1p-7f + 1e-6f) << i;
  }
}

TEST(CudaNormRows, IsTheCpusToItsRounding) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {0, 1, 33})
    for (const int64_t width : {8, 200, 2816, 7168}) {
      Both<Bf16> src(testing::random_bf16({rows, width}, kSeed)), dst({rows, width});
      Both<float> weight(testing::random_f32({width}, kSeed + 1)), inverse(Shape{rows});
      run_on_both([&](auto at) {
        return NormRows{at(dst), at(inverse), at(src), at(weight), 1e-6f};
      });
      expect_near(dst.computed(), dst.expected());
      for (int64_t r = 0; r < rows; ++r)
        EXPECT_NEAR(inverse.computed()[r], inverse.expected()[r], 1e-5f * inverse.expected()[r]);
      cuda_ops().run(NormRows{src.gpu(), {}, src.gpu(), weight.gpu(), 1e-6f}, nullptr);  // in place
      expect_near(src.computed(), dst.expected());
    }
}

TEST(CudaWeighShared, IsTheCpusToItsRounding) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {0, 1, 65}) {
    Both<float> src(testing::random_f32({2, tokens, 264}, kSeed)),
        weights(testing::random_f32({tokens, 2}, kSeed + 1)), dst({tokens, 264});
    run_on_both([&](auto at) { return WeighShared{at(dst), at(src), at(weights)}; });
    EXPECT_TRUE(dst.computed().guards_intact());
    for (int64_t i = 0; i < dst.expected().count(); ++i)
      ASSERT_NEAR(dst.computed()[i], dst.expected()[i], 1e-6f);
  }
}

TEST(CudaAddRows, IsTheCpusToItsRoundingAndWidenIsExact) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {0, 1, 65}) {
    Both<float> src(testing::random_f32({rows, 264}, kSeed)),
        more(testing::random_f32({rows, 264}, kSeed + 1)), scale(testing::random_f32({rows}, 3)),
        wide({rows, 264});
    Both<Bf16> dst({rows, 264});
    run_on_both([&](auto at) { return AddRows{at(dst), at(src), {at(more), at(scale)}}; });
    expect_near(dst.computed(), dst.expected());
    run_on_both([&](auto at) { return AddRows{at(dst), at(src), {}}; });
    EXPECT_TRUE(dst.same());
    run_on_both([&](auto at) { return Widen{at(wide), at(dst)}; });
    EXPECT_TRUE(wide.same());
  }
}

}  // namespace
}  // namespace switchyard
