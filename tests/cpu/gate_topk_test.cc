// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/gate_topk_test.cc -- each rule of the gate on logits whose answer is known by hand.
#include "cpu/run.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/buffer.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// One token.
Routed route(const std::vector<float>& logits, int64_t top_k, const GateConfig& gate,
             const std::vector<float>& bias = {}) {
  const auto num_experts = static_cast<int64_t>(logits.size());
  Buffer<int32_t> ids({1, top_k});
  Buffer<float> weights({1, top_k});
  ThreadPool pool(1);
  GateTopk g;
  g.ids = ids.view();
  g.weights = weights.view();
  g.logits = ConstTensor(logits.data(), {1, num_experts});
  if (!bias.empty()) g.correction_bias = ConstTensor(bias.data(), {num_experts});
  g.gate = gate;
  run(g, {pool});
  EXPECT_TRUE(ids.guards_intact() && weights.guards_intact());
  return {ids.values(), weights.values()};
}

// exp(logit) = 1, 2, 3, 4: softmax 0.1, 0.2, 0.3, 0.4.
const std::vector<float> kTenths = {std::log(2.0f), std::log(4.0f), 0.0f, std::log(3.0f)};

void expect_weights(const Routed& r, const std::vector<int32_t>& ids,
                    const std::vector<float>& weights) {
  EXPECT_EQ(r.ids, ids);
  for (size_t k = 0; k < weights.size(); ++k) EXPECT_NEAR(r.weights[k], weights[k], 1e-6f) << k;
}

TEST(GateTopk, SoftmaxThenTopK) {
  expect_weights(route(kTenths, 2, {}), {1, 3}, {0.4f, 0.3f});
  expect_weights(route(kTenths, 2, {.renormalize = true}), {1, 3}, {4 / 7.0f, 3 / 7.0f});
  expect_weights(route(kTenths, 2, {.scale = 2.5f}), {1, 3}, {1.0f, 0.75f});
}

TEST(GateTopk, TopKThenSoftmax) {
  expect_weights(route(kTenths, 3, {.scoring = Scoring::SoftmaxOfTopK}), {1, 3, 0},
                 {4 / 9.0f, 3 / 9.0f, 2 / 9.0f});
}

TEST(GateTopk, RenormalizationUsesItsEpsilonAsASumOrAFloor) {
  expect_weights(route(kTenths, 2, {.renormalize = true, .renormalize_epsilon = 0.3f}), {1, 3},
                 {0.4f, 0.3f});
  expect_weights(
      route(kTenths, 2,
            {.renormalize = true, .renormalize_epsilon = 1.4f, .clamp_renormalizer = true}),
      {1, 3}, {0.4f / 1.4f, 0.3f / 1.4f});
  expect_weights(
      route(kTenths, 2,
            {.renormalize = true, .renormalize_epsilon = 0.1f, .clamp_renormalizer = true}),
      {1, 3}, {4 / 7.0f, 3 / 7.0f});
}

TEST(GateTopk, TheCorrectionBiasChoosesButDoesNotWeigh) {
  const GateConfig gate{.scoring = Scoring::Sigmoid, .correction_bias = true};
  // Sigmoids 0.5, 0.73, 0.88; the bias lifts the first above all.
  expect_weights(route({0, 1, 2}, 2, gate, {10, 0, 0}), {0, 2}, {0.5f, 0.8807971f});
}

TEST(GateTopk, GroupsByTheSumOfTheirTwoBest) {
  GateConfig gate{
      .scoring = Scoring::Sigmoid, .correction_bias = true, .num_groups = 3, .num_groups_kept = 1};
  // Group 0 has the single best expert, group 2 the best pair.
  const std::vector<float> logits = {5, -9, 0, 0, 3, 3};
  const std::vector<float> none(6, 0.0f);
  EXPECT_EQ(route(logits, 2, gate, none).ids, (std::vector<int32_t>{4, 5}));
  gate.group_score = GroupScore::Max;
  EXPECT_EQ(route(logits, 2, gate, none).ids, (std::vector<int32_t>{0, 1}));
  gate.num_groups_kept = 2;
  EXPECT_EQ(route(logits, 2, gate, none).ids, (std::vector<int32_t>{0, 4}));
}

TEST(GateTopk, AMaskedExpertNeverWinsAgainstNegativeScores) {
  // All biased scores are negative: experts of other groups must not be chosen as "zero".
  const GateConfig gate{
      .scoring = Scoring::Sigmoid, .correction_bias = true, .num_groups = 2, .num_groups_kept = 1};
  EXPECT_EQ(route({1, 1, 0, 0}, 2, gate, {-5, -5, -9, -9}).ids, (std::vector<int32_t>{0, 1}));
}

TEST(GateTopk, TiesGoToTheLowestIdInExpertsAndGroups) {
  EXPECT_EQ(route({1, 2, 2, 1, 2}, 4, {}).ids, (std::vector<int32_t>{1, 2, 4, 0}));
  EXPECT_EQ(route({0, 0, 0, 0, 0, 0}, 3, {.scoring = Scoring::SoftmaxOfTopK}).ids,
            (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(route(std::vector<float>(8, 0.5f), 2, {.num_groups = 4, .num_groups_kept = 2}).ids,
            (std::vector<int32_t>{0, 1}));
}

TEST(GateTopk, ASaturatedSigmoidStillFindsTheLargestLogit) {
  expect_weights(route({20, 30, 25}, 1, {.scoring = Scoring::Sigmoid}), {1}, {1.0f});
}

TEST(GateTopk, TheSparseMixerWeighsOnlyWhatIsCloseToTheBest) {
  const GateConfig gate{.scoring = Scoring::SparseMixer, .jitter_epsilon = 0.01f};
  // 10 and 9.9 are within 2 percent, 5 is not. Then of the rest: 9.9 alone.
  const float near = 1.0f / (1.0f + std::exp(-0.1f));
  expect_weights(route({5, 9.9f, 10, -20}, 2, gate), {2, 1}, {near, 1.0f});
  expect_weights(route({3, 3, 1, 0}, 2, gate), {0, 1}, {0.5f, 1.0f});
}

TEST(GateTopk, NaNLogitsStillGiveDistinctIdsInRange) {
  for (const auto scoring :
       {Scoring::Softmax, Scoring::SoftmaxOfTopK, Scoring::Sigmoid, Scoring::SparseMixer}) {
    for (const auto& logits : {std::vector<float>{kNan, 1, kNan, 0}, std::vector<float>(4, kNan)}) {
      const auto r = route(logits, 2, {.scoring = scoring});
      EXPECT_NE(r.ids[0], r.ids[1]);
      for (const int32_t id : r.ids) EXPECT_TRUE(id >= 0 && id < 4);
    }
  }
}

TEST(GateTopk, HugeLogitsDoNotOverflow) {
  for (const auto scoring : {Scoring::Softmax, Scoring::SoftmaxOfTopK}) {
    const auto r = route({3e38f, 3e38f, -3e38f}, 2, {.scoring = scoring});
    EXPECT_EQ(r.ids, (std::vector<int32_t>{0, 1}));
    EXPECT_EQ(r.weights, (std::vector<float>{0.5f, 0.5f}));
  }
}

TEST(GateTopk, EveryExpertMayBeChosenAndTheLargestGateFits) {
  std::vector<float> logits(kMaxExperts);
  for (size_t e = 0; e < logits.size(); ++e) logits[e] = static_cast<float>(e % 977);
  const auto r = route(logits, 64, {.renormalize = true});
  float sum = 0;
  for (const float w : r.weights) sum += w;
  EXPECT_NEAR(sum, 1.0f, 1e-5f);
  EXPECT_EQ(r.ids[0], 976);
  auto all = route(kTenths, 4, {}).ids;
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, (std::vector<int32_t>{0, 1, 2, 3}));
}

TEST(GateTopk, SqrtSoftplusNeitherOverflowsNorLosesSmallScores) {
  const float ln2 = std::log(2.0f);
  expect_weights(route({0, 100, -100, 1}, 3, {.scoring = Scoring::SqrtSoftplus}), {1, 3, 0},
                 {10.0f, std::sqrt(std::log(1 + std::exp(1.0f))), std::sqrt(ln2)});
  expect_weights(route({-50, -60, -200}, 2, {.scoring = Scoring::SqrtSoftplus}), {0, 1},
                 {std::exp(-25.0f), std::exp(-30.0f)});
  expect_weights(route({0, 0, 0}, 1, {.scoring = Scoring::SqrtSoftplus}, {0, 0.5f, 0.25f}), {1},
                 {std::sqrt(ln2)});
}

// One token with whatever a rule may have.
struct Parts {
  std::vector<float> logits{}, bias{}, correction{}, scale{};
  std::vector<int32_t> table{};
  int64_t token = 0, num_shared = 0;
  float row_scale = 1;
  int num_parts = 1;
};

struct RoutedParts {
  std::vector<int32_t> ids;
  std::vector<float> weights, shared;
};

RoutedParts route(const Parts& p, int64_t top_k, const GateConfig& gate) {
  Buffer<int32_t> ids({1, top_k});
  Buffer<float> weights({1, top_k}), shared({1, std::max<int64_t>(1, p.num_shared)});
  ThreadPool pool(1);
  const auto vector = [](const std::vector<float>& v) {
    return v.empty() ? ConstTensor() : ConstTensor(v.data(), {static_cast<int64_t>(v.size())});
  };
  GateTopk g;
  g.ids = ids.view();
  g.weights = weights.view();
  if (p.num_shared > 0) g.shared_weights = shared.view();
  g.logits = ConstTensor(p.logits.data(), {1, static_cast<int64_t>(p.logits.size())});
  g.logit_parts = p.num_parts;
  if (p.row_scale != 1) g.row_scale = ConstTensor(&p.row_scale, {1});
  g.bias = vector(p.bias);
  g.correction_bias = vector(p.correction);
  g.expert_scale = vector(p.scale);
  if (!p.table.empty()) {
    g.token_ids = ConstTensor(&p.token, {1});
    g.token_experts =
        ConstTensor(p.table.data(), {static_cast<int64_t>(p.table.size()) / top_k, top_k});
  }
  g.gate = gate;
  run(g, {pool});
  EXPECT_TRUE(ids.guards_intact() && weights.guards_intact() && shared.guards_intact());
  return {ids.values(), weights.values(), shared.values()};
}

TEST(GateTopk, LogitsAreTheirPartsScaledThenBiasedThenCapped) {
  // Parts 1 + 0.5 + 0.25, 2 + 0 + 0, -1 + 1 + 1; twice that; plus a bias.
  Parts p{.logits = {1, 2, -1, 0.5f, 0, 1, 0.25f, 0, 1}, .bias = {0, -1, 0.5f}};
  p.num_parts = 3;
  p.row_scale = 2;
  const GateConfig gate{.scoring = Scoring::Sigmoid};
  const auto sigmoid = [](float x) { return 1 / (1 + std::exp(-x)); };
  auto r = route(p, 3, gate);
  EXPECT_EQ(r.ids, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_NEAR(r.weights[0], sigmoid(3.5f), 1e-6f);
  EXPECT_NEAR(r.weights[1], sigmoid(3.0f), 1e-6f);
  EXPECT_NEAR(r.weights[2], sigmoid(2.5f), 1e-6f);
  GateConfig capped = gate;
  capped.logit_softcap = 2;
  EXPECT_NEAR(route(p, 1, capped).weights[0], sigmoid(2 * std::tanh(1.75f)), 1e-6f);
}

TEST(GateTopk, ATokensIdChoosesAndScoresOnlyWeigh) {
  Parts p{.logits = {3, 0, 1, 2}, .table = {0, 1, 3, 1, 2, 0}};
  p.token = 1;
  const auto r = route(p, 2, {.scoring = Scoring::Sigmoid, .renormalize = true});
  EXPECT_EQ(r.ids, (std::vector<int32_t>{3, 1}));  // in the order of the table
  const float a = 1 / (1 + std::exp(-2.0f)), b = 0.5f;
  EXPECT_NEAR(r.weights[0], a / (a + b), 1e-6f);
  for (const int64_t none : {int64_t{-1}, int64_t{3}, int64_t{1} << 40}) {
    p.token = none;
    EXPECT_EQ(route(p, 2, {}).ids, (std::vector<int32_t>{INT32_MIN, INT32_MIN})) << none;
  }
}

TEST(GateTopk, SharedExpertsAreWeighedWithTheChosenHoweverSmallTheirScores) {
  Parts p{.logits = {0, 1, -1, 0.5f, 2}, .correction = {5, 0, 0}, .scale = {2, 3, 5, 7, 11}};
  p.num_shared = 2;
  const GateConfig gate{.scoring = Scoring::Sigmoid, .renormalize = true, .scale = 4};
  const auto sigmoid = [](float x) { return 1 / (1 + std::exp(-x)); };
  const float sum = sigmoid(0) + sigmoid(0.5f) + sigmoid(2);
  auto r = route(p, 1, gate);
  EXPECT_EQ(r.ids, (std::vector<int32_t>{0}));  // the bias chooses
  EXPECT_NEAR(r.weights[0], sigmoid(0) / sum * 8, 1e-5f);
  EXPECT_NEAR(r.shared[0], sigmoid(0.5f) / sum * 28, 1e-5f);
  EXPECT_NEAR(r.shared[1], sigmoid(2) / sum * 44, 1e-5f);
  p.logits = {-200, -201, -202, -200, -300};
  p.scale = {};
  r = route(p, 1, gate);
  EXPECT_NEAR(r.weights[0], 2, 1e-5f);
  EXPECT_NEAR(r.shared[0], 2, 1e-5f);
  EXPECT_LT(r.shared[1], 1e-40f);
}

TEST(GateTopk, TheScaleOfAnExpertIsTheLastFactor) {
  Parts p{.logits = kTenths, .scale = {1, 10, 100, 1000}};
  const auto r = route(p, 2, {.renormalize = true, .scale = 2});
  EXPECT_EQ(r.ids, (std::vector<int32_t>{1, 3}));
  EXPECT_NEAR(r.weights[0], 4 / 7.0f * 20, 1e-4f);
  EXPECT_NEAR(r.weights[1], 3 / 7.0f * 2000, 1e-2f);
}

}  // namespace
}  // namespace switchyard::cpu
