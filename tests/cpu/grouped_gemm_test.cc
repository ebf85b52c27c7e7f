// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/grouped_gemm_test.cc -- the fast grouped GEMM against the form that defines it.
#include "cpu/grouped_gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "plan/index.h"
#include "testing/buffer.h"
#include "testing/cpu_ops.h"
#include "testing/instruction_sets.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;

class GroupedGemmTest : public testing::EveryInstructionSet {};
SWITCHYARD_FOR_EVERY_INSTRUCTION_SET(GroupedGemmTest);

// Groups of random rows with padding between them, and everything an epilogue can read.
struct Problem {
  Problem(std::vector<int32_t> rows, int64_t n_columns, int64_t inner, int64_t alignment = 1)
      : n(n_columns),
        k(inner),
        counts({static_cast<int64_t>(rows.size())}),
        first_row({static_cast<int64_t>(rows.size()) + 1}) {
    const auto num_experts = static_cast<int64_t>(rows.size());
    first_row[0] = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      counts[e] = rows[static_cast<size_t>(e)];
      first_row[e + 1] = first_row[e] + padded_count(counts[e], alignment);
    }
    num_rows = first_row[num_experts];
    src = testing::random_bf16({num_rows, k}, 1);
    weights = testing::random_bf16({num_experts, n, k}, 2);
    bias = testing::random_f32({num_experts, n}, 3);
    row_weights = testing::random_f32({num_rows, 1}, 4, 0.1f, 1.0f);
    slot_of_row = Buffer<int32_t>({num_rows});
    for (int64_t r = 0; r < num_rows; ++r)
      slot_of_row[r] = static_cast<int32_t>(num_rows - 1 - r);  // a slot is not its row
  }

  GroupedGemm gemm(Buffer<Bf16>& dst) const { return gemm(dst.view()); }
  GroupedGemm gemm(Tensor dst) const {
    GroupedGemm g;
    g.dst = dst;
    g.src = src.view();
    g.weights = weights.view();
    // The groups are only read.
    g.groups = {const_cast<Buffer<int32_t>&>(counts).view(),
                const_cast<Buffer<int64_t>&>(first_row).view()};
    g.max_rows = num_rows;
    return g;
  }
  bool is_valid(int64_t row) const {
    for (int64_t e = 0; e < counts.count(); ++e)
      if (row >= first_row[e] && row < first_row[e] + counts[e]) return true;
    return false;
  }
  // Sum of |a b| of the row and column that make the largest sum: what rounding errors scale with.
  double largest_norm() const {
    double most = 0;
    for (int64_t r = 0; r < num_rows; ++r) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += std::abs(static_cast<float>(src[r * k + i]));
      most = std::max(most, sum);
    }
    return most;
  }

  int64_t n, k, num_rows = 0;
  Buffer<int32_t> counts;
  Buffer<int64_t> first_row;
  Buffer<Bf16> src, weights;
  Buffer<float> bias, row_weights;
  Buffer<int32_t> slot_of_row;
};

// fp32 sums of k terms in any order differ from the exact sum by at most k eps sum |a b|; in blocks
// of lanes the factor is far smaller. 8 covers every shape here and catches a missing term.
double sum_tolerance(const Problem& p) {
  return 8 * 0x1p-24 * p.largest_norm();
}

void expect_equal_f32(const Problem& p, const Buffer<float>& actual, const Buffer<float>& expected,
                      int64_t width, double tolerance, const std::string& what) {
  EXPECT_TRUE(actual.guards_intact()) << what;
  int wrong = 0;
  for (int64_t r = 0; r < p.num_rows; ++r)
    for (int64_t c = 0; c < width; ++c) {
      const double a = actual[r * width + c], e = expected[r * width + c];
      const bool good = p.is_valid(r) ? std::abs(a - e) <= tolerance * (1 + std::abs(e))
                                      : std::isnan(a);  // padding is never written
      if (!good && ++wrong == 1)
        ADD_FAILURE() << what << ": row " << r << ", column " << c << ": " << a << ", expected "
                      << e << ", tolerance " << tolerance;
    }
  EXPECT_EQ(wrong, 0) << what;
}

// Runs both forms into f32 and compares.
void compare_forms(const Problem& p, const std::function<void(GroupedGemm&)>& change,
                   const std::string& what, double factor = 1) {
  GroupedGemm probe = p.gemm(Tensor{});
  change(probe);
  const bool gated = probe.activation && probe.activation->gated();
  const int64_t width = gated ? p.n / 2 : p.n;
  Buffer<float> plain({p.num_rows, width}), fast({p.num_rows, width});
  GroupedGemm g = probe;
  g.dst = plain.view();
  run_plain(g);
  ThreadPool pool(3);
  g.dst = fast.view();
  run(g, {pool});
  expect_equal_f32(p, fast, plain, width, factor * sum_tolerance(p), what);
}

TEST_P(GroupedGemmTest, FastEqualsPlainForEveryShapeOfTileAndTail) {
  for (const int64_t n : {8, 16, 24, 40, 72, 136})
    for (const int64_t k : {8, 16, 24, 40, 64, 120, 264, 520}) {
      const Problem p({1, 0, 2, 3, 5, 0, 17, 33, 64}, n, k);
      compare_forms(
          p, [](GroupedGemm&) {}, "N=" + std::to_string(n) + " K=" + std::to_string(k));
    }
}

TEST_P(GroupedGemmTest, FastEqualsPlainForEveryActivationOrderBiasAndRowWeight) {
  const Problem p({3, 1, 0, 21, 8}, 48, 64, 4);
  for (const auto kind : Activations::kAll)
    for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate})
      for (const bool bias : {false, true})
        for (const bool row_weights : {false, true})
          // An activation multiplies two sums of size about 8: errors grow by that, relu2 doubles.
          compare_forms(
              p,
              [&, activation = Activation{kind, 1.702f, 1.5f}](GroupedGemm& g) {
                g.activation = &activation;
                g.order = order;
                if (bias) g.bias = p.bias.view();
                if (row_weights) {
                  g.row_weights = p.row_weights.view();
                  g.slot_of_row = p.slot_of_row.view();
                }
              },
              std::string(activation_name(kind)) + (bias ? " bias" : "") +
                  (row_weights ? " weighted" : "") +
                  (order == GateUpOrder::UpGate ? " up-gate" : ""),
              16);
}

TEST_P(GroupedGemmTest, GathersRowsByTheirSlotsWithTheSameBits) {
  constexpr int kSlotsPerRow = 3;
  Problem p({130, 0, 3, 64}, 80, 264);
  const int64_t num_sources = (p.num_rows + kSlotsPerRow - 1) / kSlotsPerRow;
  const auto sources = testing::random_bf16({num_sources, p.k}, 7);
  for (int64_t r = 0; r < p.num_rows; ++r)
    std::copy_n(sources.data() + p.slot_of_row[r] / kSlotsPerRow * p.k, p.k,
                p.src.data() + r * p.k);
  Buffer<Bf16> scattered({p.num_rows, p.n}), gathered({p.num_rows, p.n});
  ThreadPool pool(2);
  run(p.gemm(scattered), {pool});
  GroupedGemm g = p.gemm(gathered);
  g.src = sources.view();
  g.slot_of_row = p.slot_of_row.view();
  g.slots_per_row = kSlotsPerRow;
  run(g, {pool});
  EXPECT_TRUE(testing::same_bits(scattered, gathered));
}

TEST_P(GroupedGemmTest, ActivationsSurviveHugeAndInfiniteSums) {
  Problem p({4}, 16, 8);
  for (int64_t i = 0; i < p.src.count(); ++i) p.src[i] = Bf16(i % 2 ? 1e4f : -3e4f);
  ThreadPool pool(1);
  for (const auto kind : Activations::kAll) {
    const Activation a{kind};
    if (!a.gated()) continue;
    Buffer<float> out({4, 8});
    GroupedGemm g = p.gemm(out.view());
    g.activation = &a;
    g.order = GateUpOrder::GateUp;
    run(g, {pool});
    for (int64_t i = 0; i < out.count(); ++i)
      EXPECT_TRUE(std::isfinite(out[i])) << activation_name(a.kind) << " " << out[i];
  }
}

TEST_P(GroupedGemmTest, IntegerOperandsGiveExactSums) {
  // |a|, |b| <= 8 are integers, K 264 terms: every partial sum is an integer below 2^24.
  Problem p({1, 7, 40}, 56, 264);
  for (int64_t i = 0; i < p.src.count(); ++i)
    p.src[i] = Bf16(static_cast<float>((i * 37 + i / 11) % 17 - 8));
  for (int64_t i = 0; i < p.weights.count(); ++i)
    p.weights[i] = Bf16(static_cast<float>((i * 53 + i / 7) % 17 - 8));
  Buffer<float> plain({p.num_rows, p.n}), fast({p.num_rows, p.n});
  run_plain(p.gemm(plain.view()));
  ThreadPool pool(2);
  run(p.gemm(fast.view()), {pool});
  EXPECT_TRUE(testing::same_bits(plain, fast));
}

TEST_P(GroupedGemmTest, ARowHasTheSameBitsAloneOrInAnyBatchWithAnyThreads) {
  const Problem all({130, 3, 64}, 80, 264);
  Buffer<Bf16> expected({all.num_rows, all.n});
  {
    ThreadPool pool(1);
    run(all.gemm(expected), {pool});
  }
  for (const int threads : {2, 5}) {
    Buffer<Bf16> out({all.num_rows, all.n});
    ThreadPool pool(threads);
    run(all.gemm(out), {pool});
    EXPECT_TRUE(testing::same_bits(out, expected)) << threads << " threads";
  }
  // Each row alone: one row in its own group, at row 0.
  ThreadPool pool(2);
  for (int64_t r = 0; r < all.num_rows; ++r) {
    const int64_t e = r < 130 ? 0 : r < 133 ? 1 : 2;
    Problem one({0, 0, 0}, all.n, all.k);
    one.counts[e] = 1;
    for (int64_t i = e + 1; i <= 3; ++i) one.first_row[i] = 1;
    one.num_rows = 1;
    one.src = Buffer<Bf16>({1, all.k});
    std::copy_n(all.src.data() + r * all.k, all.k, one.src.data());
    Buffer<Bf16> out({1, all.n});
    run(one.gemm(out), {pool});
    EXPECT_EQ(std::memcmp(out.data(), expected.data() + r * all.n,
                          static_cast<size_t>(all.n) * sizeof(Bf16)),
              0)
        << "row " << r;
  }
}

TEST_P(GroupedGemmTest, Bf16OutputIsTheFloatOutputRoundedOnce) {
  const Problem p({9, 20}, 40, 72);
  Buffer<float> wide({p.num_rows, p.n});
  Buffer<Bf16> narrow({p.num_rows, p.n});
  ThreadPool pool(2);
  run(p.gemm(wide.view()), {pool});
  run(p.gemm(narrow), {pool});
  for (int64_t i = 0; i < wide.count(); ++i) EXPECT_EQ(narrow[i].bits(), Bf16(wide[i]).bits());
}

TEST_P(GroupedGemmTest, SubnormalsCountAsWhatTheyAre) {
  Problem p({3}, 16, 40);
  for (int64_t i = 0; i < p.src.count(); ++i) p.src[i] = Bf16(i % 2 ? 1.0f : -0.5f);
  for (int64_t i = 0; i < p.weights.count(); ++i)
    p.weights[i] = Bf16::from_bits(static_cast<uint16_t>(i % 3 ? 0x0041 : 0x0081));
  Buffer<float> plain({p.num_rows, p.n}), fast({p.num_rows, p.n});
  run_plain(p.gemm(plain.view()));
  ThreadPool pool(1);
  run(p.gemm(fast.view()), {pool});
  const float lost = 40 * std::numeric_limits<float>::denorm_min();  // one rounding each
  for (int64_t i = 0; i < fast.count(); ++i) EXPECT_NEAR(fast[i], plain[i], lost);
}

TEST_P(GroupedGemmTest, NothingIsWrittenWithoutRows) {
  const Problem p({0, 0, 0}, 16, 16);
  Buffer<Bf16> out({4, 16});
  ThreadPool pool(2);
  run(p.gemm(out), {pool});
  run_plain(p.gemm(out));
  EXPECT_TRUE(out.guards_intact());
  for (int64_t i = 0; i < out.count(); ++i) EXPECT_EQ(out[i].bits(), 0x7fc1);
}

TEST_P(GroupedGemmTest, ANaNStaysInItsRow) {
  Problem p({5}, 24, 40);
  p.src[2 * 40 + 7] = Bf16(std::nanf(""));
  Buffer<Bf16> out({5, 24});
  ThreadPool pool(2);
  run(p.gemm(out), {pool});
  for (int64_t i = 0; i < out.count(); ++i)
    EXPECT_EQ(std::isnan(static_cast<float>(out[i])), i / 24 == 2) << i;
}

}  // namespace
}  // namespace switchyard::cpu
