// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/quantize_rows_test.cc -- Q128: both forms against its definition in float64, byte by
// byte.
#include "cpu/quantize_rows.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "testing/buffer.h"
#include "testing/cpu_ops.h"
#include "testing/f8_e4m3.h"
#include "testing/instruction_sets.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

class QuantizeRowsTest : public testing::EveryInstructionSet {};
SWITCHYARD_FOR_EVERY_INSTRUCTION_SET(QuantizeRowsTest);

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint32_t kNanScale = 0x7fc00000;

struct Group {
  uint32_t scale;  // its bits
  std::vector<int> codes;
};

// A quotient of two floats that is rounded to double and then to float is rounded once: 53 bits are
// more than twice 24 and two.
Group defined_group(const std::vector<float>& values) {
  double most = 0;
  for (const float x : values) {
    if (std::isnan(x)) return {kNanScale, std::vector<int>(values.size(), 0x7f)};
    most = std::max(most, std::abs(double{x}));
  }
  const auto scale = static_cast<float>(std::max(most, double{1e-10f}) / 448.0);
  Group group{std::bit_cast<uint32_t>(scale), {}};
  for (const float x : values)
    group.codes.push_back(testing::nearest_e4m3(static_cast<float>(double{x} / double{scale})));
  return group;
}

float number(float x) {
  return x;
}
float number(Bf16 x) {
  return static_cast<float>(x);
}

template <class Number>
struct Case {
  Case(Buffer<Number> rows, int64_t capacity, int64_t hidden_size, int64_t group_size)
      : src(std::move(rows)),
        hidden(hidden_size),
        group(group_size),
        num_groups((hidden + group - 1) / group),
        dst({capacity, hidden}),
        scales({capacity, num_groups}) {}

  QuantizeRows op() {
    QuantizeRows op;
    op.dst = dst.view();
    op.scales = scales.view();
    op.src = src.view();
    op.group = group;
    return op;
  }
  void expect_defined(int64_t num_rows, const std::string& what) const {
    EXPECT_TRUE(dst.guards_intact() && scales.guards_intact()) << what;
    for (int64_t r = 0; r < scales.count() / num_groups; ++r)
      for (int64_t g = 0; g < num_groups; ++g) {
        const int64_t first = g * group, count = std::min(group, hidden - first);
        std::vector<float> values;
        for (int64_t i = 0; i < count; ++i) values.push_back(number(src[r * hidden + first + i]));
        const Group expected = defined_group(values);
        const auto scale = std::bit_cast<uint32_t>(scales[r * num_groups + g]);
        ASSERT_EQ(scale, r < num_rows ? expected.scale : kNanScale)  // the buffer's poison
            << what << ", row " << r << ", group " << g;
        for (int64_t i = 0; i < count; ++i)
          ASSERT_EQ(dst[r * hidden + first + i].bits(),
                    r < num_rows ? expected.codes[static_cast<size_t>(i)] : 0xff)
              << what << ", row " << r << ", element " << first + i << ": "
              << values[static_cast<size_t>(i)];
      }
  }

  Buffer<Number> src;
  int64_t hidden, group, num_groups;
  Buffer<F8E4m3> dst;
  Buffer<float> scales;
};

template <class Number>
void expect_both_forms(const Buffer<Number>& src, int64_t hidden, int64_t group,
                       const std::string& what, int64_t num_rows = -1) {
  const int64_t capacity = src.count() / hidden;
  Buffer<int32_t> count({1});
  count[0] = static_cast<int32_t>(num_rows);
  for (const bool fast : {false, true}) {
    Case<Number> c(src, capacity, hidden, group);
    QuantizeRows op = c.op();
    if (num_rows >= 0) op.num_rows = count.view();
    ThreadPool pool(3);
    run(op, {pool, fast});
    c.expect_defined(num_rows >= 0 ? num_rows : capacity, what + (fast ? " fast" : " plain"));
  }
}

// Every row of another size, some of whose numbers are far smaller than others.
Buffer<float> rows_of_all_sizes(int64_t num_rows, int64_t hidden, uint64_t seed) {
  Buffer<float> rows({num_rows, hidden});
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  for (int64_t r = 0; r < num_rows; ++r) {
    const int exponent = static_cast<int>(rng() % 200) - 120;
    for (int64_t i = 0; i < hidden; ++i)
      rows[r * hidden + i] = std::ldexp(normal(rng), exponent - (rng() % 8 == 0 ? 9 : 0));
  }
  return rows;
}

template <class Number>
Buffer<Number> converted(const Buffer<float>& rows, int64_t hidden) {
  Buffer<Number> result({rows.count() / hidden, hidden});
  for (int64_t i = 0; i < rows.count(); ++i) result[i] = Number(rows[i]);
  return result;
}

TEST_P(QuantizeRowsTest, RandomRowsHaveTheBytesAndScalesOfTheDefinition) {
  for (const int64_t hidden : {8, 24, 120, 128, 136, 200, 256, 1000}) {
    const auto rows = rows_of_all_sizes(40, hidden, static_cast<uint64_t>(hidden));
    const std::string what = "H=" + std::to_string(hidden);
    expect_both_forms(rows, hidden, kQuantGroup, what + " f32");
    expect_both_forms(converted<Bf16>(rows, hidden), hidden, kQuantGroup, what + " bf16");
  }
}

TEST_P(QuantizeRowsTest, AGroupMayBeARow) {
  for (const int64_t hidden : {8, 136, 1000}) {
    const auto rows = rows_of_all_sizes(20, hidden, 5);
    expect_both_forms(rows, hidden, hidden, "f32 H=" + std::to_string(hidden));
    expect_both_forms(converted<Bf16>(rows, hidden), hidden, hidden, "bf16");
  }
}

TEST_P(QuantizeRowsTest, RowsPastTheirNumberStay) {
  const auto rows = rows_of_all_sizes(30, 200, 9);
  for (const int64_t num_rows : {0, 1, 17, 30})
    expect_both_forms(rows, 200, kQuantGroup, std::to_string(num_rows), num_rows);
}

TEST_P(QuantizeRowsTest, WithoutRowsNothingIsWritten) {
  expect_both_forms(Buffer<float>({0, 128}), 128, kQuantGroup, "empty");
}

TEST_P(QuantizeRowsTest, ARowHasTheSameBytesAloneAndInABatch) {
  constexpr int64_t kHidden = 328;
  const auto rows = converted<Bf16>(rows_of_all_sizes(50, kHidden, 3), kHidden);
  Case<Bf16> all(rows, 50, kHidden, kQuantGroup);
  ThreadPool pool(4);
  run(all.op(), {pool});
  for (int64_t r = 0; r < 50; ++r) {
    Buffer<Bf16> row({1, kHidden});
    std::copy_n(rows.data() + r * kHidden, kHidden, row.data());
    Case<Bf16> one(row, 1, kHidden, kQuantGroup);
    run(one.op(), {pool});
    EXPECT_EQ(std::memcmp(one.dst.data(), all.dst.data() + r * kHidden, kHidden), 0) << r;
    EXPECT_EQ(std::memcmp(one.scales.data(), all.scales.data() + r * all.num_groups,
                          static_cast<size_t>(all.num_groups) * sizeof(float)),
              0)
        << r;
  }
}

// ---- by hand

// The group begins with `values` and ends with zeros; `expected` are their codes.
void expect_group(const std::vector<float>& values, float scale, const std::vector<int>& expected,
                  int rest = 0) {
  for (const int64_t hidden : {int64_t{128}, int64_t{136}, static_cast<int64_t>(values.size())}) {
    Buffer<float> row({1, hidden});
    std::fill_n(row.data(), hidden, 0.0f);
    // At the end of the row: of 136 elements the last group has 8.
    const int64_t first = hidden == 136 ? 128 : 0;
    ASSERT_LE(values.size(), 8u);
    std::copy(values.begin(), values.end(), row.data() + first);
    for (const bool fast : {false, true}) {
      Case<float> c(row, 1, hidden, kQuantGroup);
      ThreadPool pool(1);
      run(c.op(), {pool, fast});
      const float got = c.scales[c.num_groups - 1];
      EXPECT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(scale)) << got;
      for (size_t i = 0; i < values.size(); ++i)
        EXPECT_EQ(c.dst[first + static_cast<int64_t>(i)].bits(), expected[i])
            << values[i] << " of " << hidden << (fast ? " fast" : " plain");
      for (int64_t i = first + static_cast<int64_t>(values.size()); i < hidden; ++i)
        EXPECT_EQ(c.dst[i].bits(), rest) << i;
      if (hidden == 136) {
        EXPECT_EQ(c.scales[0], 1e-10f / 448);  // the other group is its own
        EXPECT_EQ(c.dst[0].bits(), 0);
      }
    }
  }
}

TEST_P(QuantizeRowsTest, AScaleOfOneLeavesTheRoundingOfTheFormat) {
  // 1 + 1/16 and 1 + 3/16 are halfway between two codes; 2^-10 is between 0 and the least one.
  expect_group({448, 1.0625f, -1.1875f, 0x1p-10f, 0x1.8p-9f, 0x1p-9f, 17.0f, -448}, 1.0f,
               {0x7e, 0x38, 0xba, 0x00, 0x02, 0x01, 0x58, 0xfe});
}

TEST_P(QuantizeRowsTest, ZerosKeepTheirSignsAndHaveAScale) {
  expect_group({0.0f, -0.0f, 0.0f, -0.0f}, 1e-10f / 448, {0x00, 0x80, 0x00, 0x80});
}

TEST_P(QuantizeRowsTest, WhatIsBelowTheLeastMaximumBecomesSmallOrZero) {
  const float least = 1e-10f, scale = least / 448;
  expect_group({least, -least / 2}, scale, {0x7e, 0xf6});
  expect_group({least / 2, least / 4}, scale, {0x76, 0x6e});  // not stretched to 448
  expect_group({0x1p-149f, -0x1p-127f, 0x1p-126f}, scale, {0x00, 0x80, 0x00});
  const float above = std::nextafter(least, 1.0f);
  expect_group({above}, above / 448, {0x7e});
}

TEST_P(QuantizeRowsTest, AnOutlierLeavesNothingOfSmallNumbers) {
  expect_group({3e38f, 1.0f, -1e30f, 3e38f / 2}, 3e38f / 448, {0x7e, 0x00, 0x80, 0x76});
  const float most = std::numeric_limits<float>::max();
  expect_group({-most}, most / 448, {0xfe});
}

TEST_P(QuantizeRowsTest, ANaNTakesItsGroupAlone) {
  for (const float nan : {std::nanf(""), -std::nanf(""), std::bit_cast<float>(0x7f800001u)})
    for (const float other : {1.0f, kInf, -kInf, -0.0f}) {
      const float quiet = std::bit_cast<float>(kNanScale);
      expect_group({other, nan, 2.0f}, quiet, {0x7f, 0x7f, 0x7f}, 0x7f);
    }
}

TEST_P(QuantizeRowsTest, AnInfinityIsNaNAmongZeros) {
  expect_group({1.0f, kInf, -2.0f, -kInf, -0.0f, 3e38f}, kInf,
               {0x00, 0x7f, 0x80, 0x7f, 0x80, 0x00});
}

// ---- activated

struct Activated {
  Activated(const std::vector<int32_t>& rows, int64_t width_of_rows, bool is_gated)
      : width(width_of_rows),
        gated(is_gated),
        counts({static_cast<int64_t>(rows.size())}),
        first_row({static_cast<int64_t>(rows.size()) + 1}) {
    first_row[0] = 2;  // padding before, between and after
    for (int64_t e = 0; e < counts.count(); ++e) {
      counts[e] = rows[static_cast<size_t>(e)];
      first_row[e + 1] = first_row[e] + counts[e] + 3;
    }
    num_rows = first_row[counts.count()];
    sums = testing::random_f32({num_rows, gated ? 2 * width : width}, 7, -4.0f, 4.0f);
  }
  QuantizeActivated op(Buffer<F8E4m3>& dst, Buffer<float>& scales, const Activation& activation,
                       GateUpOrder order) {
    QuantizeActivated op;
    op.dst = dst.view();
    op.scales = scales.view();
    op.src = sums.view();
    op.groups = {counts.view(), first_row.view()};
    op.max_rows = num_rows;
    op.activation = &activation;
    op.order = order;
    return op;
  }
  bool is_valid(int64_t r) const {
    for (int64_t e = 0; e < counts.count(); ++e)
      if (r >= first_row[e] && r < first_row[e] + counts[e]) return true;
    return false;
  }

  int64_t width, num_rows = 0;
  bool gated;
  Buffer<int32_t> counts;
  Buffer<int64_t> first_row;
  Buffer<float> sums;
};

TEST_P(QuantizeRowsTest, AnActivatedRowIsQuantisedWithoutARounding) {
  int64_t num_differing = 0;  // from those of values that were rounded to bf16
  for (const auto kind : Activations::kAll)
    for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate})
      for (const int64_t width : {8, 128, 200}) {
        const Activation activation{kind, 1.702f, 1.5f};
        const bool gated = activation.gated(), up_first = order == GateUpOrder::UpGate;
        Activated a({3, 0, 17, 1}, width, gated);
        const int64_t num_groups = (width + 127) / 128;
        Buffer<F8E4m3> plain({a.num_rows, width}), fast({a.num_rows, width});
        Buffer<float> plain_scales({a.num_rows, num_groups}), fast_scales({a.num_rows, num_groups});
        run_plain(a.op(plain, plain_scales, activation, order));
        ThreadPool pool(3);
        run(a.op(fast, fast_scales, activation, order), {pool});
        EXPECT_TRUE(testing::same_bits(plain, fast)) << activation_name(kind);
        EXPECT_TRUE(testing::same_bits(plain_scales, fast_scales)) << activation_name(kind);
        EXPECT_TRUE(plain.guards_intact() && plain_scales.guards_intact());
        for (int64_t r = 0; r < a.num_rows; ++r)
          for (int64_t g = 0; g < num_groups; ++g) {
            const int64_t first = g * 128, count = std::min<int64_t>(128, width - first);
            std::vector<float> values, rounded;
            for (int64_t i = first; i < first + count; ++i) {
              const float* row = a.sums.data() + r * (gated ? 2 * width : width);
              const float left = row[i], right = gated ? row[width + i] : left;
              values.push_back(
                  activate(activation, up_first ? right : left, up_first ? left : right));
              rounded.push_back(static_cast<float>(Bf16(values.back())));
            }
            const Group expected = defined_group(values), other = defined_group(rounded);
            const bool valid = a.is_valid(r);
            ASSERT_EQ(std::bit_cast<uint32_t>(plain_scales[r * num_groups + g]),
                      valid ? expected.scale : kNanScale)
                << activation_name(kind) << " row " << r;
            for (int64_t i = 0; i < count; ++i) {
              const auto at = static_cast<size_t>(i);
              ASSERT_EQ(plain[r * width + first + i].bits(), valid ? expected.codes[at] : 0xff)
                  << activation_name(kind) << " row " << r << " column " << first + i;
              num_differing += expected.codes[at] != other.codes[at];
            }
          }
      }
  EXPECT_GT(num_differing, 0);
}

}  // namespace
}  // namespace switchyard::cpu
