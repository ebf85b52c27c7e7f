// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/base/f8_e4m3_test.cc -- every code and the roundings between them, against the format's
// definition in float64.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "switchyard/block_scales.h"
#include "switchyard/tensor.h"
#include "testing/f8_e4m3.h"

namespace switchyard {
namespace {

using testing::e4m3_value;
using testing::nearest_e4m3;

int code_of(float x) {
  return F8E4m3(x).bits();
}

TEST(F8E4m3, EveryCodeIsItsValueAndComesBack) {
  for (int code = 0; code < 256; ++code) {
    const auto x = static_cast<float>(F8E4m3::from_bits(static_cast<uint8_t>(code)));
    const double expected = e4m3_value(code);
    EXPECT_EQ(std::signbit(x), code >= 0x80) << code;
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(x)) << code;
      EXPECT_EQ(code_of(x), 0x7f) << code;  // one NaN
    } else {
      EXPECT_EQ(x, expected) << code;
      EXPECT_EQ(code_of(x), code);
    }
  }
  EXPECT_EQ(e4m3_value(0x7e), F8E4m3::kMax);
}

TEST(F8E4m3, HalfwayRoundsToEvenAndItsNeighboursToTheNearest) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (int code = 0; code < 0x7e; ++code) {
    const auto half = static_cast<float>((e4m3_value(code) + e4m3_value(code + 1)) / 2);
    const int even = code % 2 == 0 ? code : code + 1;
    for (const int sign : {0, 0x80}) {
      const float x = sign ? -half : half;
      EXPECT_EQ(code_of(x), even | sign);
      EXPECT_EQ(code_of(std::nextafter(x, 0.0f)), code | sign);
      EXPECT_EQ(code_of(std::nextafter(x, sign ? -kInf : kInf)), (code + 1) | sign);
    }
  }
}

TEST(F8E4m3, SaturatesAndKeepsTheSignOfZero) {
  constexpr auto kLimits = std::numeric_limits<float>();
  for (const float x : {448.0f, 463.9f, 464.0f, 480.0f, 1e30f, kLimits.max(), kLimits.infinity()}) {
    EXPECT_EQ(code_of(x), 0x7e) << x;
    EXPECT_EQ(code_of(-x), 0xfe) << x;
  }
  for (const float x : {0.0f, kLimits.denorm_min(), kLimits.min(), 0x1p-10f}) {
    EXPECT_EQ(code_of(x), 0) << x;
    EXPECT_EQ(code_of(-x), 0x80) << x;
  }
  EXPECT_EQ(code_of(kLimits.quiet_NaN()), 0x7f);
  EXPECT_EQ(code_of(-kLimits.quiet_NaN()), 0x7f);
}

TEST(F8E4m3, RandomFloatsRoundToTheNearest) {
  std::mt19937_64 rng(1);
  for (int i = 0; i < 200000; ++i) {
    // Half of them with exponents around those of the format.
    uint32_t bits = static_cast<uint32_t>(rng());
    if (i % 2) bits = (bits & 0x807fffffu) | static_cast<uint32_t>(rng() % 26 + 112) << 23;
    const float x = std::bit_cast<float>(bits);
    ASSERT_EQ(code_of(x), nearest_e4m3(x)) << x;
  }
}

TEST(BlockScales, HaveOneForEachBlockAndItsEdges) {
  constexpr int64_t kWhole = ScaleBlock::kWhole;
  EXPECT_EQ(scales_shape({256, 384}, {}), (Shape{2, 3}));
  EXPECT_EQ(scales_shape({257, 383}, {}), (Shape{3, 3}));
  EXPECT_EQ(scales_shape({5, 200}, {1, 128}), (Shape{5, 2}));
  EXPECT_EQ(scales_shape({5, 200}, {1, kWhole}), (Shape{5, 1}));
  EXPECT_EQ(scales_shape({7, 5, 200}, {kWhole, kWhole}), (Shape{7, 1, 1}));
  EXPECT_EQ(scales_shape({7, 6, 200}, {3, kWhole}), (Shape{7, 2, 1}));
  EXPECT_EQ(scales_shape({0, 0}, {}), (Shape{0, 0}));
}

}  // namespace
}  // namespace switchyard
