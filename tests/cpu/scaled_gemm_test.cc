// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/scaled_gemm_test.cc -- the grouped GEMM of f8_e4m3: its definition against float64, and
// the fast form against the definition, bit by bit.
#include "cpu/scaled_gemm.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "plan/index.h"
#include "testing/buffer.h"
#include "testing/cpu_ops.h"
#include "testing/f8_e4m3.h"
#include "testing/instruction_sets.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::e4m3_value;
using testing::run_plain;

class ScaledGemmTest : public testing::EveryInstructionSet {};
SWITCHYARD_FOR_EVERY_INSTRUCTION_SET(ScaledGemmTest);

constexpr int64_t kWhole = ScaleBlock::kWhole;
constexpr ScaleBlock kRowGroups{1, 128};

// Codes of numbers as Q128 leaves them, without NaN.
Buffer<F8E4m3> random_codes(Shape shape, uint64_t seed) {
  Buffer<F8E4m3> codes(shape);
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal(0, 150);
  for (int64_t i = 0; i < codes.count(); ++i)
    codes[i] = F8E4m3(rng() % 16 == 0 ? std::ldexp(normal(rng), -15) : normal(rng));
  return codes;
}

// Groups of random rows with padding between them.
struct Problem {
  Problem(const std::vector<int32_t>& rows, int64_t n_columns, int64_t inner,
          ScaleBlock weight_block = {}, ScaleBlock src_block = kRowGroups, int64_t alignment = 1)
      : n(n_columns),
        k(inner),
        counts({static_cast<int64_t>(rows.size())}),
        first_row({static_cast<int64_t>(rows.size()) + 1}),
        src_scale_block(src_block),
        weight_scale_block(weight_block) {
    const auto num_experts = static_cast<int64_t>(rows.size());
    first_row[0] = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      counts[e] = rows[static_cast<size_t>(e)];
      first_row[e + 1] = first_row[e] + padded_count(counts[e], alignment);
    }
    num_rows = first_row[num_experts];
    src = random_codes({num_rows, k}, 1);
    weights = random_codes({num_experts, n, k}, 2);
    src_scales = testing::random_f32(scales_shape({num_rows, k}, src_block), 3, 1e-3f, 2e-2f);
    weight_scales =
        testing::random_f32(scales_shape({num_experts, n, k}, weight_block), 4, 1e-4f, 1e-3f);
    bias = testing::random_f32({num_experts, n}, 5);
    row_weights = testing::random_f32({num_rows, 1}, 6, 0.1f, 1.0f);
    slot_of_row = Buffer<int32_t>({num_rows});
    for (int64_t r = 0; r < num_rows; ++r)
      slot_of_row[r] = static_cast<int32_t>(num_rows - 1 - r);  // a slot is not its row
  }

  ScaledGemm gemm(Tensor dst) const {
    ScaledGemm g;
    g.dst = dst;
    g.src = src.view();
    g.src_scales = {src_scales.view(), src_scale_block};
    g.weights = weights.view();
    g.weight_scales = {weight_scales.view(), weight_scale_block};
    // The groups are only read.
    g.groups = {const_cast<Buffer<int32_t>&>(counts).view(),
                const_cast<Buffer<int64_t>&>(first_row).view()};
    g.max_rows = num_rows;
    return g;
  }
  int64_t expert_of(int64_t row) const {
    for (int64_t e = 0; e < counts.count(); ++e)
      if (row >= first_row[e] && row < first_row[e] + counts[e]) return e;
    return -1;
  }
  // The sum of row r and column j in float64, and the sum of its terms' magnitudes.
  std::pair<double, double> oracle(int64_t r, int64_t j) const {
    const int64_t e = expert_of(r);
    const auto block_of = [](int64_t at, int64_t size) { return size == kWhole ? 0 : at / size; };
    const int64_t src_cols = scales_shape({1, k}, src_scale_block)[1];
    const Shape blocks = scales_shape({1, n, k}, weight_scale_block);
    double sum = 0, magnitudes = 0;
    for (int64_t i = 0; i < k; ++i) {
      const double sx = src_scales[r * src_cols + block_of(i, src_scale_block.cols)];
      const double sw =
          weight_scales[(e * blocks[1] + block_of(j, weight_scale_block.rows)) * blocks[2] +
                        block_of(i, weight_scale_block.cols)];
      const double term = sx * sw * e4m3_value(src[r * k + i].bits()) *
                          e4m3_value(weights[(e * n + j) * k + i].bits());
      sum += term;
      magnitudes += std::abs(term);
    }
    return {sum, magnitudes};
  }

  int64_t n, k, num_rows = 0;
  Buffer<int32_t> counts;
  Buffer<int64_t> first_row;
  ScaleBlock src_scale_block, weight_scale_block;
  Buffer<F8E4m3> src, weights;
  Buffer<float> src_scales, weight_scales, bias, row_weights;
  Buffer<int32_t> slot_of_row;
};

// Every block that weights come in, and rows.
std::vector<std::pair<ScaleBlock, ScaleBlock>> blocks_of(int64_t n) {
  std::vector<std::pair<ScaleBlock, ScaleBlock>> all;
  for (const ScaleBlock weights : {ScaleBlock{}, ScaleBlock{1, kWhole}, ScaleBlock{kWhole, kWhole},
                                   ScaleBlock{(n + 1) / 2, kWhole}, ScaleBlock{32, 256}})
    for (const ScaleBlock rows : {kRowGroups, ScaleBlock{1, 256}, ScaleBlock{1, kWhole}})
      all.push_back({weights, rows});
  return all;
}

void expect_same_bits_of_forms(const Problem& p, const std::function<void(ScaledGemm&)>& change,
                               const std::string& what) {
  Buffer<float> plain({p.num_rows, p.n}), fast({p.num_rows, p.n});
  ScaledGemm g = p.gemm(plain.view());
  change(g);
  run_plain(g);
  ThreadPool pool(3);
  g.dst = fast.view();
  run(g, {pool});
  EXPECT_TRUE(plain.guards_intact() && fast.guards_intact()) << what;
  int wrong = 0;
  for (int64_t i = 0; i < plain.count(); ++i)
    if (std::bit_cast<uint32_t>(plain[i]) != std::bit_cast<uint32_t>(fast[i]) && ++wrong == 1)
      ADD_FAILURE() << what << ": row " << i / p.n << ", column " << i % p.n << ": " << fast[i]
                    << ", expected " << plain[i];
  EXPECT_EQ(wrong, 0) << what;
}

TEST(ScaledGemm, TheDefinitionIsTheSumInFloat64WithinItsRoundings) {
  for (const int64_t k : {16, 128, 200, 1032})
    for (const auto& [weight_block, src_block] : blocks_of(136)) {
      const Problem p({2, 0, 3}, 136, k, weight_block, src_block, 4);
      Buffer<float> out({p.num_rows, p.n});
      run_plain(p.gemm(out.view()));
      // Of each step: of the scales' product, of the sum of products, of the fma.
      const double tolerance = (static_cast<double>((k + 127) / 128) + 2) * 0x1p-24;
      for (int64_t r = 0; r < p.num_rows; ++r)
        for (int64_t j = 0; j < p.n; ++j) {
          const float got = out[r * p.n + j];
          if (p.expert_of(r) < 0) {
            ASSERT_TRUE(std::isnan(got)) << "padding is never written";
            continue;
          }
          const auto [sum, magnitudes] = p.oracle(r, j);
          ASSERT_LE(std::abs(got - sum), tolerance * magnitudes)
              << "K=" << k << " row " << r << " column " << j << ": " << got << ", " << sum;
        }
    }
}

TEST_P(ScaledGemmTest, FastHasTheBitsOfPlainForEveryShapeOfTileAndTail) {
  for (const int64_t n : {1, 2, 8, 63, 64, 65, 130})
    for (const int64_t k : {8, 16, 120, 128, 136, 256, 520, 1032}) {
      const Problem p({1, 0, 2, 3, 5, 0, 7, 49}, n, k);
      expect_same_bits_of_forms(
          p, [](ScaledGemm&) {}, "N=" + std::to_string(n) + " K=" + std::to_string(k));
    }
}

TEST_P(ScaledGemmTest, FastHasTheBitsOfPlainForEveryBlockBiasAndRowWeight) {
  for (const auto& [weight_block, src_block] : blocks_of(72))
    for (const bool bias : {false, true})
      for (const bool row_weights : {false, true}) {
        const Problem p({3, 1, 0, 13}, 72, 648, weight_block, src_block, 4);
        expect_same_bits_of_forms(
            p,
            [&](ScaledGemm& g) {
              if (bias) g.bias = p.bias.view();
              if (!row_weights) return;
              g.row_weights = p.row_weights.view();
              g.slot_of_row = p.slot_of_row.view();
            },
            std::to_string(weight_block.rows) + " x " + std::to_string(weight_block.cols));
      }
}

TEST_P(ScaledGemmTest, StepsAreAddedInTheirOrderAndRoundedOneByOne) {
  // One row, one column, three steps whose products are 2^24, 1 and -2^24: in their order the one is
  // lost. A step's own products are exact: 2^24 + 1 - 2^24 inside a step is 1.
  Problem p({1}, 1, 384);
  std::fill_n(p.src.data(), 384, F8E4m3(0.0f));
  std::fill_n(p.weights.data(), 384, F8E4m3(1.0f));
  std::fill_n(p.src_scales.data(), 3, 1.0f);
  std::fill_n(p.weight_scales.data(), 3, 1.0f);
  const auto result = [&] {
    Buffer<float> out({1, 1}), plain({1, 1});
    ThreadPool pool(1);
    run(p.gemm(out.view()), {pool});
    run_plain(p.gemm(plain.view()));
    EXPECT_EQ(out[0], plain[0]);
    return out[0];
  };
  p.src[0] = F8E4m3(1.0f);
  p.src_scales[0] = 0x1p24f;
  p.src[128] = F8E4m3(1.0f);
  p.src[256] = F8E4m3(-1.0f);
  p.src_scales[2] = 0x1p24f;
  EXPECT_EQ(result(), 0);
  std::swap(p.src_scales[1], p.src_scales[2]);  // 2^24, 2^24, -1
  EXPECT_EQ(result(), 0x1p25f);

  std::fill_n(p.src.data(), 384, F8E4m3(0.0f));
  std::fill_n(p.src_scales.data(), 3, 1.0f);
  p.src[0] = F8E4m3(256.0f), p.weights[0] = F8E4m3(256.0f);
  p.src[5] = F8E4m3(0x1p-9f), p.weights[5] = F8E4m3(0x1p-9f);
  p.src[127] = F8E4m3(-256.0f), p.weights[127] = F8E4m3(256.0f);
  EXPECT_EQ(result(), 0x1p-18f);
}

TEST_P(ScaledGemmTest, TheProductOfTwoScalesIsRoundedOnce) {
  Problem p({1}, 1, 16);
  std::fill_n(p.src.data(), 16, F8E4m3(0.0f));
  p.src[3] = F8E4m3(3.0f), p.weights[3] = F8E4m3(1.0f);
  p.src_scales[0] = 1 + 0x1p-23f, p.weight_scales[0] = 1 + 0x1p-23f;
  Buffer<float> out({1, 1});
  ThreadPool pool(1);
  run(p.gemm(out.view()), {pool});
  // (1 + 2^-23)^2 becomes 1 + 2^-22; three times that is a tie, and 3 + 2^-20 would be odd.
  EXPECT_EQ(out[0], std::fma(1 + 0x1p-22f, 3.0f, 0.0f));
}

TEST_P(ScaledGemmTest, GathersRowsAndTheirScalesByTheirSlotsWithTheSameBits) {
  constexpr int kSlotsPerRow = 3;
  Problem p({50, 0, 3, 14}, 80, 264);
  const int64_t num_sources = (p.num_rows + kSlotsPerRow - 1) / kSlotsPerRow;
  const auto sources = random_codes({num_sources, p.k}, 7);
  const auto scales = testing::random_f32({num_sources, 3}, 8, 1e-3f, 1e-2f);
  for (int64_t r = 0; r < p.num_rows; ++r) {
    const int64_t from = p.slot_of_row[r] / kSlotsPerRow;
    std::copy_n(sources.data() + from * p.k, p.k, p.src.data() + r * p.k);
    std::copy_n(scales.data() + from * 3, 3, p.src_scales.data() + r * 3);
  }
  for (const bool fast : {false, true}) {
    Buffer<Bf16> scattered({p.num_rows, p.n}), gathered({p.num_rows, p.n});
    ThreadPool pool(2);
    run(p.gemm(scattered.view()), {pool, fast});
    ScaledGemm g = p.gemm(gathered.view());
    g.src = sources.view();
    g.src_scales.values = scales.view();
    g.slot_of_row = p.slot_of_row.view();
    g.slots_per_row = kSlotsPerRow;
    run(g, {pool, fast});
    EXPECT_TRUE(testing::same_bits(scattered, gathered));
  }
}

TEST_P(ScaledGemmTest, ARowHasTheSameBitsAloneOrInAnyBatchLayoutWithAnyThreads) {
  const Problem all({55, 3, 14}, 80, 264);
  Buffer<Bf16> expected({all.num_rows, all.n});
  {
    ThreadPool pool(1);
    run(all.gemm(expected.view()), {pool});
  }
  for (const int threads : {2, 5}) {
    Buffer<Bf16> out({all.num_rows, all.n});
    ThreadPool pool(threads);
    run(all.gemm(out.view()), {pool});
    EXPECT_TRUE(testing::same_bits(out, expected)) << threads << " threads";
  }
  // Each row alone, as masked buffers have it: row 40 of an expert with room for more.
  ThreadPool pool(2);
  for (int64_t r = 0; r < all.num_rows; ++r) {
    const int64_t e = all.expert_of(r);
    Problem one({0, 0, 0}, all.n, all.k);
    one.counts[e] = 1;
    one.first_row[e] = 40;
    one.src = Buffer<F8E4m3>({41, all.k});
    one.src_scales = Buffer<float>({41, 3});
    std::copy_n(all.src.data() + r * all.k, all.k, one.src.data() + 40 * all.k);
    std::copy_n(all.src_scales.data() + r * 3, 3, one.src_scales.data() + 40 * 3);
    Buffer<Bf16> out({41, all.n});
    ScaledGemm g = one.gemm(out.view());
    g.layout = Layout::Masked;
    run(g, {pool});
    EXPECT_EQ(std::memcmp(out.data() + 40 * all.n, expected.data() + r * all.n,
                          static_cast<size_t>(all.n) * sizeof(Bf16)),
              0)
        << "row " << r;
  }
}

TEST_P(ScaledGemmTest, Bf16OutputIsTheFloatOutputRoundedOnce) {
  const Problem p({9, 20}, 40, 200);
  Buffer<float> wide({p.num_rows, p.n});
  Buffer<Bf16> narrow({p.num_rows, p.n});
  ThreadPool pool(2);
  run(p.gemm(wide.view()), {pool});
  run(p.gemm(narrow.view()), {pool});
  for (int64_t i = 0; i < wide.count(); ++i) EXPECT_EQ(narrow[i].bits(), Bf16(wide[i]).bits());
}

TEST_P(ScaledGemmTest, ANaNOfARowStaysInItAndOneOfAWeightInItsColumn) {
  for (const int code : {0x7f, 0xff})
    for (const int64_t k : {40, 128, 640})
      for (const int64_t at : {int64_t{0}, k / 2, k - 1}) {
        Problem p({7, 2}, 67, k);
        p.src[2 * k + at] = F8E4m3::from_bits(static_cast<uint8_t>(code));
        p.weights[(67 + 5) * k + at] = F8E4m3::from_bits(static_cast<uint8_t>(code));
        for (const bool fast : {false, true}) {
          Buffer<float> out({9, 67});
          ThreadPool pool(2);
          run(p.gemm(out.view()), {pool, fast});
          for (int64_t r = 0; r < 9; ++r)
            for (int64_t j = 0; j < 67; ++j)
              EXPECT_EQ(std::isnan(out[r * 67 + j]), r == 2 || (r >= 7 && j == 5)) << r << " " << j;
        }
      }
}

TEST_P(ScaledGemmTest, TheLargestAndTheLeastCodesDoNotOverflow) {
  for (const int code : {0x7e, 0xfe, 0x01, 0x81, 0x08}) {
    Problem p({3}, 5, 640);
    std::fill_n(p.src.data(), p.src.count(), F8E4m3::from_bits(static_cast<uint8_t>(code)));
    std::fill_n(p.weights.data(), p.weights.count(), F8E4m3::from_bits(static_cast<uint8_t>(code)));
    std::fill_n(p.src_scales.data(), p.src_scales.count(), 0.5f);
    std::fill_n(p.weight_scales.data(), p.weight_scales.count(), 2.0f);
    Buffer<float> out({3, 5});
    ThreadPool pool(1);
    run(p.gemm(out.view()), {pool});
    const double value = e4m3_value(code);
    for (int64_t i = 0; i < out.count(); ++i) EXPECT_EQ(out[i], 640 * value * value);
  }
}

TEST_P(ScaledGemmTest, NothingIsWrittenWithoutRows) {
  const Problem p({0, 0, 0}, 16, 16);
  Buffer<Bf16> out({4, 16});
  ThreadPool pool(2);
  run(p.gemm(out.view()), {pool});
  run_plain(p.gemm(out.view()));
  EXPECT_TRUE(out.guards_intact());
  for (int64_t i = 0; i < out.count(); ++i) EXPECT_EQ(out[i].bits(), 0x7fc1);
}

}  // namespace
}  // namespace switchyard::cpu
