// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/linear_attention/decode_test.cc -- convolution and gated delta rule on the CPU against
// float64, at every bound of the block map.
#include <gtest/gtest.h>

#include "testing/linear_attention.h"

namespace switchyard::testing {
namespace {

std::unique_ptr<LinearAttention> cpu_attention(int num_threads = 2) {
  return LinearAttention::create(make_cpu_backend(num_threads), 70);
}

TEST(ConvDecodeCpu, IsFloat64sForTheReferencesSizes) {
  const auto attention = cpu_attention();
  for (const int64_t batch : {1, 10, 32})
    for (const int64_t n : {1, 2, 4}) {
      ConvProblem p;
      p.paged = random_batch(batch, n, 128, 3);
      p.dim = 4096, p.num_tokens = n, p.flat = n == 1 && batch == 10;
      expect_conv<Bf16, Bf16, Buffer>(*attention, p);
    }
}

TEST(ConvDecodeCpu, TakesEveryWidthTypeAndActivation) {
  const auto attention = cpu_attention();
  uint64_t seed = 1;
  for (const int64_t width : {2, 3, 4, 5, 6})
    for (const int64_t n : {1, 2, 3, 4})
      for (const bool bias : {false, true}) {
        ConvProblem p;
        p.paged = random_batch(3, n, 5, seed);
        p.width = width, p.num_tokens = n, p.bias = bias, p.seed = ++seed;
        p.activation = bias ? ConvActivation::None : ConvActivation::Silu;
        p.block_gap = bias ? 8 : 0;
        expect_conv<Bf16, Bf16, Buffer>(*attention, p);
        expect_conv<float, float, Buffer>(*attention, p);
        expect_conv<float, Bf16, Buffer>(*attention, p);
        expect_conv<Bf16, float, Buffer>(*attention, p);
      }
}

TEST(ConvDecodeCpu, TouchesNothingBeyondEveryBound) {
  const auto attention = cpu_attention();
  for (const int64_t n : {1, 2, 3, 4})
    for (const auto& [s, slots] : {std::pair<int64_t, int64_t>{16, 4}, {1, 3}, {2, 1}, {2048, 4}}) {
      ConvProblem p;
      p.paged = boundary_batch(s, slots);
      p.num_tokens = n;
      expect_conv<Bf16, Bf16, Buffer>(*attention, p);
    }
}

TEST(ConvDecodeCpu, TouchesNothingBehindAnInvalidId) {
  const auto attention = cpu_attention();
  for (const int64_t n : {1, 2, 4})
    for (const int64_t first_block : {1, 0}) {
      ConvProblem p;
      p.paged = bad_block_batch();
      p.paged.first_block = first_block;
      if (first_block == 0)  // block 0 would be written by several sequences
        for (auto& plant : p.paged.planted)
          if (plant.id == 0) plant.id = -7;
      p.num_tokens = n;
      expect_conv<Bf16, Bf16, Buffer>(*attention, p);
    }
}

TEST(ConvDecodeCpu, BlockZeroIsAStateWhereItIsAskedFor) {
  const auto attention = cpu_attention();
  ConvProblem p;
  p.paged.lengths = {18};
  p.paged.first_block = 0;
  p.paged.planted = {{0, 1, 0}};
  expect_conv<Bf16, Bf16, Buffer>(*attention, p);
}

TEST(ConvDecodeCpu, SharesReadBlocks) {
  const auto attention = cpu_attention();
  ConvProblem p;
  p.paged.lengths = {17, 17, 17};
  p.paged.planted = {{0, 0, 13}, {1, 0, 13}, {2, 0, 13}};
  p.num_tokens = 3;
  expect_conv<Bf16, Bf16, Buffer>(*attention, p);
}

TEST(ConvDecodeCpu, RunsInPlace) {
  const auto attention = cpu_attention();
  ConvProblem p;
  p.paged = boundary_batch();
  p.num_tokens = 2;
  ConvStep<Bf16, Bf16, Buffer> apart(p), in_place(p);
  attention->conv_decode(apart.args());
  ConvDecode step = in_place.args();
  Buffer<Bf16> both(step.x.shape);
  std::copy_n(step.x.as<Bf16>(), both.count(), both.data());
  step.x = both.view(), step.output = both.view();
  attention->conv_decode(step);
  attention->wait_status();
  EXPECT_TRUE(same_bits(both, apart.output()));
  EXPECT_TRUE(same_bits(in_place.pool(), apart.pool()));
}

TEST(DeltaRuleCpu, IsFloat64sForTheReferencesSizes) {
  const auto attention = cpu_attention();
  for (const auto& [batch, n] :
       {std::pair<int64_t, int64_t>{1, 1}, {1, 2}, {1, 4}, {5, 2}, {16, 4}, {64, 1}}) {
    DeltaProblem p;
    p.paged = random_batch(batch, n, 128, 5);
    p.paged.spare_blocks = 0, p.paged.sparse_tokens = n;
    p.key_heads = 16, p.value_heads = 32, p.key_dim = p.value_dim = 128, p.num_tokens = n;
    expect_delta<Bf16, Buffer>(*attention, p);
  }
}

TEST(DeltaRuleCpu, TakesAnyWidthNormScaleAndBeta) {
  const auto attention = cpu_attention();
  uint64_t seed = 1;
  for (const auto& [key_dim, value_dim] :
       {std::pair<int64_t, int64_t>{4, 1}, {32, 32}, {48, 80}, {128, 33}, {200, 16}, {256, 5}})
    for (const int64_t n : {1, 2, 3, 4})
      for (const bool normalize : {false, true}) {
        DeltaProblem p;
        p.paged = random_batch(2, n, 7, seed);
        p.key_dim = key_dim, p.value_dim = value_dim, p.num_tokens = n;
        p.l2_normalize = normalize, p.beta_per_value = normalize, p.seed = ++seed;
        p.block_gap = normalize ? 12 : 0, p.row_gap = normalize ? 3 : 0;
        if (!normalize) p.scale = 0.7f;
        expect_delta<float, Buffer>(*attention, p);
        expect_delta<Bf16, Buffer>(*attention, p);
      }
}

TEST(DeltaRuleCpu, TouchesNothingBeyondEveryBound) {
  const auto attention = cpu_attention();
  for (const int64_t n : {1, 2, 3, 4})
    for (const auto& [s, slots] : {std::pair<int64_t, int64_t>{16, 4}, {1, 3}, {2, 1}, {2048, 4}}) {
      DeltaProblem p;
      p.paged = boundary_batch(s, slots);
      p.num_tokens = n;
      expect_delta<float, Buffer>(*attention, p);
    }
}

TEST(DeltaRuleCpu, TouchesNothingBehindAnInvalidId) {
  const auto attention = cpu_attention();
  for (const int64_t n : {1, 2, 4}) {
    DeltaProblem p;
    p.paged = bad_block_batch();
    p.num_tokens = n;
    expect_delta<float, Buffer>(*attention, p);
  }
}

// The sequences around one that is refused give the bits that they give around one that is not
// there.
TEST(DeltaRuleCpu, OtherSequencesDoNotNotice) {
  const auto attention = cpu_attention();
  DeltaProblem p;
  p.paged.lengths = {20, 66, 33, 1000, 5};
  p.num_tokens = 2;
  DeltaStep<Bf16, Buffer> faulty(p);
  attention->delta_rule_decode(faulty.args());
  attention->wait_status();
  p.paged.lengths = {20, 0, 33, 0, 5};
  DeltaStep<Bf16, Buffer> absent(p);
  attention->delta_rule_decode(absent.args());
  EXPECT_TRUE(same_bits(faulty.pool(), absent.pool()));
  const int64_t row = absent.output().count() / 5;
  for (const int64_t b : {0, 2, 4})
    EXPECT_EQ(std::memcmp(faulty.output().data() + b * row, absent.output().data() + b * row,
                          static_cast<size_t>(row) * sizeof(Bf16)),
              0);
}

// Token after token through several blocks, and the same four at a time: the state that a step
// finds is the one that another step left, whichever prefix of a draft was accepted.
TEST(DeltaRuleCpu, StepsOfSeveralTokensFollowEachOther) {
  const auto attention = cpu_attention(1);
  constexpr int64_t kTokens = 8, kDim = 8, kStep = 4;
  const auto q = random_f32({kTokens, kDim}, 1), k = random_f32({kTokens, kDim}, 2),
             v = random_f32({kTokens, kDim}, 3), g = random_f32({kTokens}, 4, -1, 0),
             beta = random_f32({kTokens}, 5, 0, 1);
  Buffer<int32_t> table({1, 12}), length({1});
  std::iota(table.data(), table.data() + 12, 1);
  const auto run = [&](Buffer<float>& pool, Buffer<float>& out, int64_t first, int64_t n) {
    length[0] = static_cast<int32_t>(first + 1);
    const auto rows = [&](const Buffer<float>& t) {
      ConstTensor view = t.view();
      view.data = t.data() + first * kDim;
      view.shape = {1, n, 1, kDim};
      return view;
    };
    DeltaRuleDecode step;
    step.output = Tensor(out.data() + first * kDim, {1, n, 1, kDim});
    step.q = rows(q), step.k = rows(k), step.v = rows(v);
    step.g = ConstTensor(g.data() + first, {1, n, 1});
    step.beta = ConstTensor(beta.data() + first, {1, n, 1});
    step.state = pool.view();
    step.l2_normalize = true;
    step.map = {.sequence_lengths = length.view(),
                .block_map = table.view(),
                .num_slots = 12,
                .row_stride = 12,
                .block_tokens = 1};
    attention->delta_rule_decode(step);
    attention->wait();
  };
  Buffer<float> one({13, 1, kDim, kDim}), four({13, 1, kDim, kDim}), out_one({kTokens, kDim}),
      out_four({kTokens, kDim});
  for (int64_t t = 0; t < kTokens; ++t) run(one, out_one, t, 1);
  // S = 1: token i of a step goes to the block that the next step reads, whatever was accepted.
  for (const int64_t first : {0, 2, 4}) run(four, out_four, first, kStep);
  EXPECT_TRUE(same_bits(out_one, out_four));
}

TEST(LinearAttentionStatus, WaitNamesTheFirstSequenceAndItsBounds) {
  const auto attention = cpu_attention();
  ConvProblem p;
  p.paged.lengths = {20, 65, 66};
  ConvStep<Bf16, Bf16, Buffer> step(p);
  attention->conv_decode(step.args());
  try {
    attention->wait();
    FAIL() << "no error";
  } catch (const switchyard::Error& e) {
    EXPECT_EQ(e.code(), Errc::BadState);
    EXPECT_STREQ(e.what(),
                 "linear_attention: sequence=1 (2 at fault), a write slot is at or past num_slots. "
                 "Give the sequence blocks for all its tokens.");
  }
  EXPECT_NO_THROW(attention->wait()) << "it was thrown once";
}

TEST(LinearAttentionStatus, WordsAddUpOverCallsUntilTheWait) {
  const auto attention = cpu_attention();
  ConvProblem p;
  p.paged.lengths = {65, 20};
  ConvStep<Bf16, Bf16, Buffer> at_end(p);
  attention->conv_decode(at_end.args());
  p.paged.lengths = {20, 18};
  p.paged.planted = {{0, 1, -3}};
  ConvStep<Bf16, Bf16, Buffer> bad_id(p);
  attention->conv_decode(bad_id.args());
  EXPECT_EQ(attention->status().as<int32_t>()[0], 4 | 2 | 8);
  const auto words = attention->wait_status();
  EXPECT_EQ(words[0], 4 | 2 | 8);
  EXPECT_EQ(words[1], 0);
  EXPECT_EQ(attention->wait_status()[0], 0);
}

}  // namespace
}  // namespace switchyard::testing
