// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/choose_experts_test.cc -- router and gate in one kernel or in two give the same bits.
#include <gtest/gtest.h>

#include "testing/both.h"
#include "testing/cuda_layer.h"

namespace switchyard::testing {
namespace {

struct Problem {
  int64_t tokens, experts, hidden, top_k;
};

struct Choice {
  Buffer<int32_t> ids;
  Buffer<float> weights;
};

// A router's operands and where a choice goes, on the device.
class Routing {
 public:
  explicit Routing(const Problem& p)
      : problem(p),
        hidden_(random_bf16({p.tokens, p.hidden}, 41)),
        weights_(random_bf16({p.experts, p.hidden}, 42)),
        bias_(random_f32({p.experts}, 43)) {}

  // By the operation of both, or by two.
  Choice choose(const GateConfig& gate, bool as_one, Ops& ops = cuda_ops()) {
    CudaBuffer<float> logits(Shape{problem.tokens, problem.experts});
    CudaBuffer<int32_t> ids(Shape{problem.tokens, problem.top_k});
    CudaBuffer<float> weights(Shape{problem.tokens, problem.top_k});
    CudaBuffer<int32_t> counts(Shape{1});
    CudaBuffer<int64_t> first_row(Shape{2});
    const RouterLogits router{
        logits.view(), hidden_.view(), weights_.view(), {counts.view(), first_row.view()}};
    GateTopk rule{
        .ids = ids.view(), .weights = weights.view(), .logits = logits.view(), .gate = gate};
    if (gate.correction_bias) rule.correction_bias = bias_.view();
    if (as_one) {
      ops.run(ChooseExperts{router, rule}, nullptr);
    } else {
      ops.run(router, nullptr);
      ops.run(rule, nullptr);
    }
    Choice choice{ids.host(), weights.host()};
    EXPECT_TRUE(choice.ids.guards_intact() && choice.weights.guards_intact());
    return choice;
  }

  void expect_equal(const GateConfig& gate, Ops& ops = cuda_ops()) {
    const Choice one = choose(gate, true, ops), two = choose(gate, false);
    for (int64_t i = 0; i < one.ids.count(); ++i) {
      ASSERT_EQ(one.ids[i], two.ids[i]) << "slot " << i;
      ASSERT_EQ(one.weights[i], two.weights[i]) << "slot " << i;
    }
  }

  const Problem problem;

 private:
  CudaBuffer<Bf16> hidden_, weights_;
  CudaBuffer<float> bias_;
};

TEST(CudaChooseExperts, GivesTheBitsOfRouterThenGate) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const Problem& p :
       {Problem{1, 128, 2048, 8}, Problem{512, 65, 64, 2}, Problem{576, 127, 2048, 8},
        Problem{577, 100, 264, 3}, Problem{639, 128, 4104, 8}, Problem{2048, 128, 1024, 8},
        Problem{545, 128, 128, 128}, Problem{700, 129, 512, 4}, Problem{2100, 128, 520, 6}}) {
    SCOPED_TRACE(::testing::Message() << p.tokens << " x " << p.experts << " x " << p.hidden);
    Routing routing(p);
    for (const Scoring scoring : {Scoring::Softmax, Scoring::Sigmoid, Scoring::SoftmaxOfTopK}) {
      GateConfig gate;
      gate.scoring = scoring;
      gate.renormalize = scoring != Scoring::SoftmaxOfTopK;
      routing.expect_equal(gate);
    }
    GateConfig biased;
    biased.scoring = Scoring::Sigmoid, biased.correction_bias = true, biased.scale = 2.5f;
    if (p.experts % 4 == 0 && p.top_k <= p.experts / 2)
      biased.num_groups = 4, biased.num_groups_kept = 2;
    routing.expect_equal(biased);
  }
}

TEST(CudaChooseExperts, OfABackendOfFewMultiprocessorsAreTheSame) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  Routing routing({2000, 96, 520, 4});
  for (const int num_sms : {1, 3}) {
    const auto backend = make_cuda_backend({.num_sms = num_sms});
    routing.expect_equal(GateConfig{}, backend->ops());
  }
}

TEST(CudaChooseExperts, OfNoTokensAreNone) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  EXPECT_EQ(Routing({0, 16, 64, 2}).choose({}, true).ids.count(), 0);
}

}  // namespace
}  // namespace switchyard::testing
