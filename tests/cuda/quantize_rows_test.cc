// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/quantize_rows_test.cc -- Q128 on the GPU: bytes and scales of the CPU's plain form.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "cpu/grouped_gemm.h"
#include "testing/both.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;
using testing::cuda_ops;
using testing::run_on_both;

constexpr uint64_t kSeed = 20291;

// Rows of many sizes, some with what is special: zeros, subnormals, infinities, a NaN.
Buffer<float> special_rows(int64_t num_rows, int64_t hidden, uint64_t seed) {
  constexpr float kSpecial[] = {0.0f,
                                -0.0f,
                                1e-10f,
                                0x1p-149f,
                                0x1p-127f,
                                3.4e38f,
                                -3.4e38f,
                                448.0f,
                                -std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::quiet_NaN()};
  Buffer<float> rows({num_rows, hidden});
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  for (int64_t r = 0; r < num_rows; ++r) {
    const int exponent = static_cast<int>(rng() % 200) - 120;
    for (int64_t i = 0; i < hidden; ++i) rows[r * hidden + i] = std::ldexp(normal(rng), exponent);
    if (r % 3 == 0)
      for (int n = 0; n < 3; ++n)
        rows[r * hidden + static_cast<int64_t>(rng() % static_cast<uint64_t>(hidden))] =
            kSpecial[rng() % std::size(kSpecial)];
    if (r % 7 == 0) std::fill_n(rows.data() + r * hidden, hidden, r % 2 ? -0.0f : 0.0f);
  }
  return rows;
}

template <class Number>
Buffer<Number> converted(const Buffer<float>& rows, int64_t hidden) {
  Buffer<Number> result({rows.count() / hidden, hidden});
  for (int64_t i = 0; i < rows.count(); ++i) result[i] = Number(rows[i]);
  return result;
}

template <class Number>
void expect_same(int64_t num_rows, int64_t hidden, int64_t group, int32_t used) {
  const std::string what = "seed " + std::to_string(kSeed) + ", rows " + std::to_string(num_rows) +
                           ", H " + std::to_string(hidden) + ", group " + std::to_string(group);
  Both<Number> src(converted<Number>(special_rows(num_rows, hidden, kSeed), hidden));
  Both<F8E4m3> dst({num_rows, hidden});
  Both<float> scales({num_rows, (hidden + group - 1) / group});
  auto count = Both<int32_t>::of({used});
  run_on_both([&](auto at) {
    QuantizeRows op;
    op.dst = at(dst);
    op.scales = at(scales);
    op.src = at(src);
    op.group = group;
    if (used >= 0) op.num_rows = at(count);
    return op;
  });
  EXPECT_TRUE(dst.same()) << what;
  EXPECT_TRUE(scales.same()) << what;
}

TEST(CudaQuantizeRows, GivesTheBytesAndScalesOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t hidden : {8, 24, 128, 136, 512, 1000, 7168})
    for (const int64_t group : {int64_t{128}, hidden}) {
      expect_same<Bf16>(200, hidden, group, -1);
      expect_same<float>(200, hidden, group, -1);
    }
}

TEST(CudaQuantizeRows, ReadsTheNumberOfRowsOnTheDevice) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int32_t used : {0, 1, 63, 100}) expect_same<Bf16>(100, 264, 128, used);
  expect_same<Bf16>(0, 264, 128, -1);
}

struct Sums {
  Sums(int64_t width, const Activation& activation)
      : counts(Both<int32_t>::of({3, 0, 70, 1})),
        first_row(Both<int64_t>::of({2, 9, 10, 100, 101})),
        values(testing::random_f32({105, activation.gated() ? 2 * width : width}, kSeed, -4, 4)),
        dst({105, width}),
        scales({105, (width + 127) / 128}) {}

  Both<int32_t> counts;
  Both<int64_t> first_row;
  Both<float> values;
  Both<F8E4m3> dst;
  Both<float> scales;
};

void run(Sums& s, const Activation& activation, GateUpOrder order) {
  run_on_both([&](auto at) {
    return QuantizeActivated{.dst = at(s.dst),
                             .scales = at(s.scales),
                             .src = at(s.values),
                             .groups = {at(s.counts), at(s.first_row)},
                             .max_rows = 74,
                             .activation = &activation,
                             .order = order};
  });
}

TEST(CudaQuantizeActivated, GivesTheBytesOfTheCpuWhereTheActivationIsProductsAlone) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const auto kind : {ActivationKind::Relu2, ActivationKind::Relu2Gated})
    for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate})
      for (const int64_t width : {8, 128, 200, 2048}) {
        const Activation activation{kind};
        Sums s(width, activation);
        run(s, activation, order);
        EXPECT_TRUE(s.dst.same()) << activation_name(kind) << " I " << width;
        EXPECT_TRUE(s.scales.same()) << activation_name(kind) << " I " << width;
      }
}

// A code is within 2^-4 of the value, below 2^-6 within 2^-10, in units of the scale; activations of
// the two backends are within 2^-18 of each other.
TEST(CudaQuantizeActivated, IsTheActivatedRowWithinTheFormat) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  constexpr int64_t kWidth = 328;
  for (const auto kind : Activations::kAll) {
    const Activation activation{kind, 1.702f, 1.5f};
    Sums s(kWidth, activation);
    run(s, activation, GateUpOrder::GateUp);
    const auto& codes = s.dst.computed();
    const auto& scales = s.scales.computed();
    for (int64_t r = 10; r < 80; ++r)
      for (int64_t i = 0; i < kWidth; ++i) {
        const float* row = s.values.expected().data() + r * (activation.gated() ? 2 : 1) * kWidth;
        const double y =
            cpu::activate(activation, row[i], row[activation.gated() ? kWidth + i : i]);
        const double scale = scales[r * 3 + i / 128],
                     got = scale * double{float(codes[r * kWidth + i])};
        ASSERT_LE(std::abs(got - y), std::max(0x1p-4 * std::abs(y), 0x1p-10 * scale) +
                                         0x1p-18 * (448 * scale + std::abs(y)))
            << activation_name(kind) << " row " << r << " column " << i;
      }
  }
}

}  // namespace
}  // namespace switchyard
