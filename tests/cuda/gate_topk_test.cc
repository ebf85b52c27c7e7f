// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/gate_topk_test.cc -- the GPU's gate chooses and weighs as the CPU's does: the same ids
// unless two scores agree to 1e-5, and weights to the rounding of their sums.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "testing/both.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;

constexpr uint64_t kSeed = 20255;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// What decides the choice, in double.
double choice_score(const float* logits, const float* bias, int64_t experts, int32_t id,
                    const GateConfig& gate) {
  double score = logits[id];
  if (gate.scoring == Scoring::Sigmoid) score = 1 / (1 + std::exp(-score));
  if (gate.scoring == Scoring::SqrtSoftplus)
    score = std::sqrt(std::max(score, 0.0) + std::log1p(std::exp(-std::abs(score))));
  if (gate.scoring == Scoring::Softmax) {
    double sum = 0;
    for (int64_t e = 0; e < experts; ++e)
      sum += std::exp(static_cast<double>(logits[e]) - static_cast<double>(logits[id]));
    score = 1 / sum;
  }
  return bias ? score + static_cast<double>(bias[id]) : score;
}

struct Routed {
  Both<int32_t> ids;
  Both<float> weights;
};

Routed route(const Buffer<float>& logits, const Buffer<float>& bias, int64_t top_k,
             const GateConfig& gate) {
  const int64_t tokens = logits.view().dim(0);
  Both<float> given(logits), added(bias);
  Routed r{Both<int32_t>({tokens, top_k}), Both<float>({tokens, top_k})};
  const bool biased = gate.correction_bias;
  testing::run_on_both([&](auto at) {
    return GateTopk{.ids = at(r.ids),
                    .weights = at(r.weights),
                    .logits = at(given),
                    .correction_bias = biased ? at(added) : Tensor{},
                    .gate = gate};
  });
  EXPECT_TRUE(r.ids.computed().guards_intact() && r.weights.computed().guards_intact());
  return r;
}

// `exact`: no two different scores are close, so the ids must be equal.
void expect_same_routing(const Buffer<float>& logits, int64_t top_k, const GateConfig& gate,
                         bool exact = false) {
  const int64_t tokens = logits.view().dim(0), experts = logits.view().dim(1);
  SCOPED_TRACE(::testing::Message()
               << "seed " << kSeed << ", E " << experts << ", K " << top_k << ", T " << tokens
               << ", scoring " << static_cast<int>(gate.scoring) << ", groups "
               << gate.num_groups_kept << " of " << gate.num_groups << ", bias "
               << gate.correction_bias << ", renormalize " << gate.renormalize);
  const auto bias = testing::random_f32({experts}, kSeed + 1, -0.2f, 0.2f);
  Routed r = route(logits, bias, top_k, gate);
  const auto& ids = r.ids.computed();
  const auto& weights = r.weights.computed();
  // One after the other, E + K roundings of at most half an ulp each, and a few ulp of exp.
  const double tolerance = 1e-6 + static_cast<double>(experts + top_k) * 0x1p-24;
  // Two groups may agree to the last bit and yet have other experts: rare, so it may happen once.
  const bool drops_groups = gate.num_groups > gate.num_groups_kept;
  int64_t num_group_ties = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    bool all_equal = true;
    for (int64_t k = 0; k < top_k; ++k) {
      const int32_t computed = ids[t * top_k + k], expected = r.ids.expected()[t * top_k + k];
      if (computed == expected) continue;
      all_equal = false;
      ASSERT_FALSE(exact) << "token " << t << ": " << computed << ", need " << expected;
      ASSERT_TRUE(computed >= 0 && computed < experts) << "token " << t;
      const float* row = logits.data() + t * experts;
      const float* b = gate.correction_bias ? bias.data() : nullptr;
      const double mine = choice_score(row, b, experts, computed, gate);
      const double theirs = choice_score(row, b, experts, expected, gate);
      if (drops_groups && std::abs(mine - theirs) > 1e-5 * std::abs(theirs)) {
        ++num_group_ties;
        break;
      }
      ASSERT_NEAR(mine, theirs, 1e-5 * std::abs(theirs)) << "token " << t << ", k " << k;
    }
    if (!all_equal) continue;  // experts of equal scores may have quite other weights
    for (int64_t k = 0; k < top_k; ++k) {
      const float computed = weights[t * top_k + k], expected = r.weights.expected()[t * top_k + k];
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(computed)) << "token " << t << ", k " << k;
      } else if (std::isinf(expected) || expected == 0) {
        ASSERT_EQ(computed, expected) << "token " << t << ", k " << k;
      } else {
        ASSERT_NEAR(computed, expected, tolerance * std::abs(static_cast<double>(expected)))
            << "token " << t << ", k " << k;
      }
    }
  }
  EXPECT_LE(num_group_ties, 1);
}

// Every rule that a checkpoint uses, for E experts.
std::vector<GateConfig> gates(int64_t experts, int64_t top_k) {
  std::vector<GateConfig> all{
      {.scoring = Scoring::Softmax},
      {.scoring = Scoring::Softmax, .renormalize = true, .scale = 2.5f},
      {.scoring = Scoring::Softmax, .renormalize = true, .correction_bias = true},
      {.scoring = Scoring::Softmax,
       .renormalize = true,
       .renormalize_epsilon = 0.3f,
       .clamp_renormalizer = true},
      {.scoring = Scoring::SoftmaxOfTopK},
      {.scoring = Scoring::Sigmoid},
      {.scoring = Scoring::SqrtSoftplus},
      {.scoring = Scoring::Sigmoid,
       .renormalize = true,
       .renormalize_epsilon = 1e-20f,
       .scale = 2.5f,
       .correction_bias = true},
      {.scoring = Scoring::SqrtSoftplus,
       .renormalize = true,
       .renormalize_epsilon = 1e-20f,
       .scale = 1.5f,
       .correction_bias = true},
  };
  for (const int64_t groups : {2, 4, 8, 64})
    for (const int64_t kept : {int64_t{1}, groups / 2, groups}) {
      if (experts % groups != 0 || experts / groups * kept < top_k) continue;
      all.push_back({.scoring = Scoring::Sigmoid,
                     .renormalize = true,
                     .renormalize_epsilon = 1e-20f,
                     .correction_bias = true,
                     .num_groups = groups,
                     .num_groups_kept = kept});
      all.push_back({.scoring = Scoring::Softmax,
                     .num_groups = groups,
                     .num_groups_kept = kept,
                     .group_score = GroupScore::Max});
    }
  if (top_k == 2) {
    all.push_back({.scoring = Scoring::SparseMixer});
    all.push_back({.scoring = Scoring::SparseMixer, .jitter_epsilon = 0.3f});
  }
  return all;
}

TEST(CudaGateTopk, RoutesAsTheCpuForEveryRule) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 3, 8, 60, 128, 512, 4096})
    for (const int64_t top_k : {1, 2, 8, 10, 16}) {
      if (top_k > experts) continue;
      for (const int64_t tokens : {0, 1, 3, 129}) {
        const auto logits = testing::random_f32({tokens, experts}, kSeed, -6.0f, 6.0f);
        for (const auto& gate : gates(experts, top_k)) {
          expect_same_routing(logits, top_k, gate);
          if (HasFailure()) return;
        }
      }
    }
}

TEST(CudaGateTopk, RoutesManyTokens) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {128, 256}) {
    const auto logits = testing::random_f32({8192, experts}, kSeed, -6.0f, 6.0f);
    for (const auto& gate : gates(experts, 8)) expect_same_routing(logits, 8, gate);
  }
}

// Few different logits, so that most scores are equal and the lowest id must win.
TEST(CudaGateTopk, TiesGoToTheLowestIdInExpertsAndGroups) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {8, 64, 512}) {
    auto logits = testing::random_f32({100, experts}, kSeed);
    for (int64_t i = 0; i < logits.count(); ++i) {
      logits[i] = i < experts ? 0.0f : std::round(std::abs(logits[i]) * 3) / 2;
      if (logits[i] == 0 && i % 3 == 0) logits[i] = -0.0f;
    }
    for (GateConfig gate : gates(experts, 2)) {
      gate.correction_bias = false;
      expect_same_routing(logits, 2, gate, true);
    }
    expect_same_routing(logits, 8, {.scoring = Scoring::SoftmaxOfTopK}, true);
  }
}

TEST(CudaGateTopk, EveryExpertMayBeChosen) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 31, 100, 4096}) {
    const auto logits = testing::random_f32({3, experts}, kSeed, -6.0f, 6.0f);
    for (const auto scoring : {Scoring::SoftmaxOfTopK, Scoring::Sigmoid}) {
      const GateConfig gate{.scoring = scoring, .renormalize = true};
      expect_same_routing(logits, experts, gate);
      Routed r = route(logits, Buffer<float>({experts}), experts, gate);
      const auto& ids = r.ids.computed();
      for (int64_t t = 0; t < 3; ++t) {
        const int32_t* row = ids.data() + t * experts;
        EXPECT_EQ(static_cast<int64_t>(std::set<int32_t>(row, row + experts).size()), experts);
      }
    }
  }
}

TEST(CudaGateTopk, TheLargestGateWithAsManyGroupsFits) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto logits = testing::random_f32({2, kMaxExperts}, kSeed, -6.0f, 6.0f);
  expect_same_routing(logits, kMaxExperts - 1,
                      {.scoring = Scoring::Sigmoid,
                       .correction_bias = true,
                       .num_groups = kMaxExperts,
                       .num_groups_kept = kMaxExperts - 1});
}

TEST(CudaGateTopk, NaNAndInfiniteLogitsGiveTheCpusIds) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {4, 40}) {
    auto logits = testing::random_f32({7, experts}, kSeed);
    for (int64_t e = 0; e < experts; ++e) {
      logits[e] = kNan;                                  // all
      logits[experts + e] = -kInf;                       // all
      if (e % 3 == 0) logits[2 * experts + e] = kNan;    // some, the first among them
      if (e % 3 == 1) logits[3 * experts + e] = -kInf;   // some
      if (e == 2) logits[4 * experts + e] = kInf;        // one
      logits[5 * experts + e] = e % 2 ? 3e38f : -3e38f;  // overflow
      if (e != 1) logits[6 * experts + e] = e % 2 ? kNan : -kInf;
    }
    for (const auto& gate : gates(experts, 2)) expect_same_routing(logits, 2, gate, true);
  }
}

TEST(CudaGateTopk, ASaturatedSigmoidStillFindsTheLargestLogit) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Buffer<float> logits({1, 3});
  logits[0] = 20, logits[1] = 30, logits[2] = 25;
  expect_same_routing(logits, 1, {.scoring = Scoring::Sigmoid}, true);
}

}  // namespace
}  // namespace switchyard
