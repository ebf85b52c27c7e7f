// tests/cpu/gate_topk_test.cc -- each rule of the gate on logits whose answer is known by hand.
#include "cpu/gate_topk.h"

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
  gate_topk(ids.view(), weights.view(), ConstTensor(logits.data(), {1, num_experts}),
            bias.empty() ? ConstTensor() : ConstTensor(bias.data(), {num_experts}), gate, pool);
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

}  // namespace
}  // namespace switchyard::cpu
