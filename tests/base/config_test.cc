// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "switchyard/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "switchyard/error.h"

namespace switchyard {
namespace {

MoeConfig good() {
  MoeConfig c;
  c.hidden = 64;
  c.intermediate = 32;
  c.num_experts = 16;
  c.top_k = 4;
  return c;
}

MoeConfig with(const std::function<void(MoeConfig&)>& change) {
  MoeConfig c = good();
  change(c);
  return c;
}

TEST(Config, AcceptsWhatModelsUse) {
  EXPECT_NO_THROW(validate(good()));
  auto c = good();
  c.gate = {.scoring = Scoring::Sigmoid,
            .renormalize = true,
            .correction_bias = true,
            .num_groups = 8,
            .num_groups_kept = 4};
  c.shared = {.intermediate = 128, .sigmoid_gated = true};
  EXPECT_NO_THROW(validate(c));
  c = good();
  c.top_k = 1;
  c.gate.scoring = Scoring::Sigmoid;
  c.router_weight_on_input = true;
  EXPECT_NO_THROW(validate(c));
}

// Scored shared experts as they may be.
void score_shared(MoeConfig& c) {
  c.gate.scoring = Scoring::Sigmoid;
  c.gate.renormalize = true;
  c.shared = {.intermediate = 128, .num_scored = 2};
}

// The last value of each rule that is still good.
const std::pair<const char*, std::function<void(MoeConfig&)>> kLimits[] = {
    {"hidden 2^20", [](auto& c) { c.hidden = 1 << 20; }},
    {"hidden 8", [](auto& c) { c.hidden = 8; }},
    {"one expert", [](auto& c) { c.num_experts = c.top_k = 1; }},
    {"4096 experts, all chosen", [](auto& c) { c.num_experts = c.top_k = 4096; }},
    {"as many zero experts as fit", [](auto& c) { c.gate.num_zero_experts = 4096 - 16; }},
    {"all and a zero expert chosen", [](auto& c) { c.gate.num_zero_experts = 1, c.top_k = 17; }},
    {"more given ids than experts", [](auto& c) { c.top_k = 17, c.ids_are_given = true; }},
    {"groups of one", [](auto& c) { c.gate.num_groups = 16, c.gate.num_groups_kept = 4; }},
    {"all groups kept", [](auto& c) { c.gate.num_groups = c.gate.num_groups_kept = 4; }},
    {"one group kept, with K experts",
     [](auto& c) { c.gate.num_groups = 4, c.gate.num_groups_kept = 1; }},
    {"groups of a softmax", [](auto& c) { c.gate.num_groups = c.gate.num_groups_kept = 2; }},
    {"scores of the chosen ones", [](auto& c) { c.gate.scoring = Scoring::SoftmaxOfTopK; }},
    {"sparse mixer without jitter",
     [](auto& c) {
       c.gate.scoring = Scoring::SparseMixer, c.top_k = 2, c.gate.jitter_epsilon = 0;
     }},
    {"bias of sqrt_softplus",
     [](auto& c) { c.gate.scoring = Scoring::SqrtSoftplus, c.gate.correction_bias = true; }},
    {"the better of two of a group",
     [](auto& c) {
       c.gate.num_groups = 2, c.gate.num_groups_kept = 1, c.gate.group_score = GroupScore::Max;
     }},
    {"vocabulary 2^31 - 1", [](auto& c) { c.gate.vocabulary = INT32_MAX; }},
    {"two scored shared experts", score_shared},
    {"16 scored shared experts", [](auto& c) { score_shared(c), c.shared.num_scored = 16; }},
    {"shared experts without scores", [](auto& c) { c.shared.intermediate = 8; }},
    {"latent 8 beside a shared expert",
     [](auto& c) { c.path.latent = 8, c.path.output_norm = true, c.shared.intermediate = 8; }},
    {"a norm before the experts", [](auto& c) { c.path.input_norm = true; }},
    {"a norm after the experts", [](auto& c) { c.path.output_norm = true; }},
    {"norm epsilon 0", [](auto& c) { c.path.norm_epsilon = 0; }},
    {"f32 sums", [](auto& c) { c.f32_sums = true; }},
    {"softcap", [](auto& c) { c.gate.logit_softcap = 30; }},
    {"renormalised by a bit more", [](auto& c) { c.gate.renormalize_epsilon = 1e-20f; }},
    {"negative scale", [](auto& c) { c.gate.scale = -1; }},
    {"tiny limit",
     [](auto& c) {
       c.activation = {ActivationKind::ClampedSwiglu, -1.7f, 1e-30f};
     }},
    {"situ",
     [](auto& c) {
       c.activation = {ActivationKind::Situ, 0.5f, 2.0f};
     }},
};

TEST(Config, AcceptsTheLastGoodValueOfEachRule) {
  for (const auto& [name, change] : kLimits) EXPECT_NO_THROW(validate(with(change))) << name;
}

struct Refusal {
  const char* message;  // a part of it
  Errc code;
  std::function<void(MoeConfig&)> change;
};

const Refusal kRefusals[] = {
    {"hidden=0", Errc::ShapeMismatch, [](auto& c) { c.hidden = 0; }},
    {"hidden=-8", Errc::ShapeMismatch, [](auto& c) { c.hidden = -8; }},
    {"hidden=2097152", Errc::ShapeMismatch, [](auto& c) { c.hidden = 1 << 21; }},
    {"hidden=7170", Errc::Misaligned, [](auto& c) { c.hidden = 7170; }},
    {"intermediate=20", Errc::Misaligned, [](auto& c) { c.intermediate = 20; }},
    {"num_experts=0", Errc::ShapeMismatch, [](auto& c) { c.num_experts = 0; }},
    {"num_experts=4097", Errc::ShapeMismatch, [](auto& c) { c.num_experts = 4097; }},
    {"num_zero_experts=9223372036854775807, need 0", Errc::ShapeMismatch,
     [](auto& c) { c.gate.num_zero_experts = INT64_MAX; }},
    {"num_zero_experts=-1", Errc::ShapeMismatch, [](auto& c) { c.gate.num_zero_experts = -1; }},
    {"top_k=0", Errc::ShapeMismatch, [](auto& c) { c.top_k = 0; }},
    {"top_k=17", Errc::ShapeMismatch, [](auto& c) { c.top_k = 17; }},
    {"top_k=0", Errc::ShapeMismatch, [](auto& c) { c.top_k = 0, c.ids_are_given = true; }},
    {"num_groups=3, must divide E=16", Errc::ShapeMismatch, [](auto& c) { c.gate.num_groups = 3; }},
    {"num_groups_kept=5", Errc::ShapeMismatch,
     [](auto& c) { c.gate.num_groups = 4, c.gate.num_groups_kept = 5; }},
    {"kept groups have 2", Errc::ShapeMismatch,
     [](auto& c) { c.gate.num_groups = 8, c.gate.num_groups_kept = 1; }},
    {"need softmax, sigmoid", Errc::Unsupported,
     [](auto& c) { c.gate.scoring = Scoring::SoftmaxOfTopK, c.gate.correction_bias = true; }},
    {"exactly 2 experts", Errc::Unsupported,
     [](auto& c) { c.gate.scoring = Scoring::SparseMixer; }},
    {"scale=nan", Errc::ShapeMismatch, [](auto& c) { c.gate.scale = std::nanf(""); }},
    {"renormalize_epsilon=-1", Errc::ShapeMismatch,
     [](auto& c) { c.gate.renormalize_epsilon = -1; }},
    {"router_weight_on_input with top_k=4", Errc::Unsupported,
     [](auto& c) { c.router_weight_on_input = true; }},
    {"router_weight_on_input with top_k=1", Errc::Unsupported,
     [](auto& c) { c.router_weight_on_input = true, c.top_k = 1; }},
    {"activation=99", Errc::Unsupported,
     [](auto& c) { c.activation.kind = static_cast<ActivationKind>(99); }},
    {"limit=0", Errc::ShapeMismatch,
     [](auto& c) {
       c.activation = {ActivationKind::ClampedSwiglu, 1.7f, 0.0f};
     }},
    {"shared intermediate=12", Errc::Misaligned, [](auto& c) { c.shared.intermediate = 12; }},
    {"shared gate without", Errc::ShapeMismatch, [](auto& c) { c.shared.sigmoid_gated = true; }},
    {"hidden=1048584", Errc::ShapeMismatch, [](auto& c) { c.hidden = (1 << 20) + 8; }},
    {"num_zero_experts=4081, need 0 to 4096 less E=16", Errc::ShapeMismatch,
     [](auto& c) { c.gate.num_zero_experts = 4081; }},
    {"top_k=19, need 1 to num_experts=18", Errc::ShapeMismatch,
     [](auto& c) { c.gate.num_zero_experts = 2, c.top_k = 19; }},
    {"num_groups=0", Errc::ShapeMismatch, [](auto& c) { c.gate.num_groups = 0; }},
    {"num_groups_kept=0", Errc::ShapeMismatch, [](auto& c) { c.gate.num_groups_kept = 0; }},
    {"num_groups=2, zero experts belong to no group", Errc::Unsupported,
     [](auto& c) { c.gate.num_groups = c.gate.num_groups_kept = 2, c.gate.num_zero_experts = 1; }},
    {"need softmax, sigmoid", Errc::Unsupported,
     [](auto& c) {
       c.gate.scoring = Scoring::SparseMixer, c.top_k = 2;
       c.gate.num_groups = c.gate.num_groups_kept = 2;
     }},
    {"vocabulary=-1, need 0", Errc::ShapeMismatch, [](auto& c) { c.gate.vocabulary = -1; }},
    {"vocabulary=2147483648, need 0", Errc::ShapeMismatch,
     [](auto& c) { c.gate.vocabulary = int64_t{1} << 31; }},
    {"vocabulary=9, a choice", Errc::Unsupported,
     [](auto& c) { c.gate.vocabulary = 9, c.gate.correction_bias = true; }},
    {"vocabulary=9, a choice", Errc::Unsupported,
     [](auto& c) { c.gate.vocabulary = 9, c.gate.num_groups = c.gate.num_groups_kept = 2; }},
    {"vocabulary=9, a choice", Errc::Unsupported,
     [](auto& c) { c.gate.vocabulary = 9, c.gate.scoring = Scoring::SparseMixer, c.top_k = 2; }},
    {"num_zero_experts=1, they go", Errc::Unsupported,
     [](auto& c) { c.gate.num_zero_experts = 1, c.shared.intermediate = 8; }},
    {"num_zero_experts=1, they go", Errc::Unsupported,
     [](auto& c) { c.gate.num_zero_experts = 1, c.path.latent = 8; }},
    {"num_zero_experts=1, they go", Errc::Unsupported,
     [](auto& c) { c.gate.num_zero_experts = 1, c.gate.expert_scale = true; }},
    {"num_zero_experts=1, they go", Errc::Unsupported,
     [](auto& c) {
       c.gate.num_zero_experts = 1, c.gate.scoring = Scoring::Sigmoid, c.top_k = 1;
       c.router_weight_on_input = true;
     }},
    {"num_scored=-1", Errc::ShapeMismatch, [](auto& c) { c.shared.num_scored = -1; }},
    {"num_scored=17", Errc::ShapeMismatch,
     [](auto& c) { score_shared(c), c.shared = {.intermediate = 17 * 8, .num_scored = 17}; }},
    {"num_scored=1, shared intermediate=0", Errc::ShapeMismatch,
     [](auto& c) { score_shared(c), c.shared = {.num_scored = 1}; }},
    {"num_scored=3, shared intermediate=128", Errc::ShapeMismatch,
     [](auto& c) { score_shared(c), c.shared.num_scored = 3; }},
    {"num_scored=2, the gate weighs", Errc::Unsupported,
     [](auto& c) { score_shared(c), c.gate.scoring = Scoring::Softmax; }},
    {"num_scored=2, the gate weighs", Errc::Unsupported,
     [](auto& c) { score_shared(c), c.gate.renormalize = false; }},
    {"num_scored=2, the gate weighs", Errc::Unsupported,
     [](auto& c) { score_shared(c), c.gate.vocabulary = 9; }},
    {"num_scored=2, the gate weighs", Errc::Unsupported,
     [](auto& c) { score_shared(c), c.shared.sigmoid_gated = true; }},
    {"num_scored=2, the gate weighs", Errc::Unsupported,
     [](auto& c) { score_shared(c), c.path.latent = 8; }},
    {"latent=-8", Errc::ShapeMismatch, [](auto& c) { c.path.latent = -8; }},
    {"latent=12", Errc::Misaligned, [](auto& c) { c.path.latent = 12; }},
    {"norm_epsilon=-1", Errc::ShapeMismatch, [](auto& c) { c.path.norm_epsilon = -1; }},
    {"norm_epsilon=inf", Errc::ShapeMismatch, [](auto& c) { c.path.norm_epsilon = INFINITY; }},
    {"f32_sums with a path", Errc::Unsupported,
     [](auto& c) { c.f32_sums = true, c.path.output_norm = true; }},
    {"latent=8, a norm before", Errc::Unsupported,
     [](auto& c) { c.path.latent = 8, c.path.input_norm = true; }},
    {"shared intermediate=8, norms around", Errc::Unsupported,
     [](auto& c) { c.path.output_norm = true, c.shared.intermediate = 8; }},
    {"scoring=5, need an enumerator, 0 to 4", Errc::Unsupported,
     [](auto& c) { c.gate.scoring = static_cast<Scoring>(5); }},
    {"scoring=-1, need an enumerator", Errc::Unsupported,
     [](auto& c) { c.gate.scoring = static_cast<Scoring>(-1); }},
    {"group_score=2, need an enumerator, 0 to 1", Errc::Unsupported,
     [](auto& c) { c.gate.group_score = static_cast<GroupScore>(2); }},
    {"logit_softcap=-1", Errc::ShapeMismatch, [](auto& c) { c.gate.logit_softcap = -1; }},
    {"logit_softcap=inf", Errc::ShapeMismatch, [](auto& c) { c.gate.logit_softcap = INFINITY; }},
    {"scale=inf", Errc::ShapeMismatch, [](auto& c) { c.gate.scale = INFINITY; }},
    {"renormalize_epsilon=inf", Errc::ShapeMismatch,
     [](auto& c) { c.gate.renormalize_epsilon = INFINITY; }},
    {"top_k=2, the sparse mixer", Errc::Unsupported,
     [](auto& c) {
       c.gate.scoring = Scoring::SparseMixer, c.top_k = 2;
       c.gate.jitter_epsilon = -0.01f;
     }},
    {"router_weight_on_input with top_k=2", Errc::Unsupported,
     [](auto& c) {
       c.router_weight_on_input = true, c.top_k = 2;
       c.gate.scoring = Scoring::Sigmoid;
     }},
    {"limit=-1", Errc::ShapeMismatch,
     [](auto& c) {
       c.activation = {ActivationKind::ClampedSwiglu, 1.7f, -1.0f};
     }},
    {"alpha=inf", Errc::ShapeMismatch,
     [](auto& c) {
       c.activation = {ActivationKind::ClampedSwiglu, INFINITY, 7.0f};
     }},
    {"alpha=0, limit=2, situ", Errc::ShapeMismatch,
     [](auto& c) {
       c.activation = {ActivationKind::Situ, 0.0f, 2.0f};
     }},
    {"limit=inf, situ", Errc::ShapeMismatch,
     [](auto& c) {
       c.activation = {ActivationKind::Situ, 1.0f, INFINITY};
     }},
    {"activation=98", Errc::Unsupported,
     [](auto& c) { c.shared.activation = Activation{static_cast<ActivationKind>(98)}; }},
    {"shared intermediate=-8", Errc::ShapeMismatch, [](auto& c) { c.shared.intermediate = -8; }},
};

TEST(Config, EachBrokenRuleIsNamedWithItsValue) {
  for (const auto& r : kRefusals) {
    auto c = good();
    r.change(c);
    try {
      validate(c);
      ADD_FAILURE() << r.message << " was accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(r.message), std::string::npos) << e.what();
      EXPECT_EQ(e.code(), r.code) << e.what();
    }
  }
}

TEST(ActivationNames, EverySpellingMeansItsKind) {
  const std::pair<const char*, ActivationKind> names[] = {
      {"silu", ActivationKind::SiluGated},
      {"SiGLU", ActivationKind::SiluGated},
      {"swiglu", ActivationKind::SiluGated},
      {"gelu", ActivationKind::GeluGated},
      {"gelu_tanh", ActivationKind::GeluTanhGated},
      {"gelu_pytorch_tanh", ActivationKind::GeluTanhGated},
      {"clamped_swiglu", ActivationKind::ClampedSwiglu},
      {"relu2", ActivationKind::Relu2},
  };
  for (const auto& [name, kind] : names) EXPECT_EQ(activation_from_name(name).kind, kind) << name;
  for (const ActivationKind kind : Activations::kAll)
    EXPECT_EQ(activation_from_name(activation_name(kind)).kind, kind);
}

TEST(ActivationNames, AnUnknownOneListsTheKnown) {
  for (const char* name : {"tanh", "", "SILU"}) {
    try {
      activation_from_name(name);
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::Unsupported);
      EXPECT_NE(std::string(e.what()).find("silu, SiGLU, swiglu, gelu"), std::string::npos);
    }
  }
}

TEST(Describe, SaysWhatTheLayerComputes) {
  auto c = good();
  c.gate = {.scoring = Scoring::Sigmoid,
            .renormalize = true,
            .scale = 2.5f,
            .correction_bias = true,
            .num_groups = 8,
            .num_groups_kept = 4};
  c.shared.intermediate = 128;
  EXPECT_EQ(describe(c),
            "H 64, I 32, E 16, K 4, silu, sigmoid then top-k with correction bias in 4 of 8 "
            "groups, renormalised, scaled by 2.5, shared expert 128");
}

std::string described(const std::function<void(MoeConfig&)>& change) {
  const std::string text = describe(with(change)), head = "H 64, I 32, E 16, K 4, ";
  EXPECT_EQ(text.substr(0, head.size()), head);
  return text.substr(std::min(text.size(), head.size()));
}

// What an operator reads of a layer: nothing that it computes is left out.
TEST(Describe, NamesEveryPartThatIsThere) {
  const std::pair<std::function<void(MoeConfig&)>, const char*> rows[] = {
      {[](auto&) {}, "silu, softmax then top-k"},
      {[](auto& c) { c.gate.scoring = Scoring::SoftmaxOfTopK; }, "silu, top-k then softmax"},
      {[](auto& c) { c.gate.scoring = Scoring::SparseMixer; }, "silu, sparse mixer"},
      {[](auto& c) { c.gate.scoring = Scoring::SqrtSoftplus; }, "silu, sqrt-softplus then top-k"},
      {[](auto& c) { c.gate.vocabulary = 1; }, "silu, chosen by token id, weighed by softmax"},
      {[](auto& c) { c.gate.num_groups = 2; }, "silu, softmax then top-k in 1 of 2 groups"},
      {[](auto& c) { c.gate.logit_softcap = 0.5f; },
       "silu, softmax then top-k, logits capped at 0.5"},
      {[](auto& c) { c.gate.expert_scale = true; }, "silu, softmax then top-k, scaled per expert"},
      {[](auto& c) { c.gate.rms_of_hidden = true; },
       "silu, softmax then top-k, on normed hidden states"},
      {[](auto& c) { c.router_weight_on_input = true; },
       "silu, softmax then top-k, weight on the input"},
      {[](auto& c) { c.gate.num_zero_experts = 1; },
       "silu, softmax then top-k, 1 zero experts return their input"},
      {[](auto& c) { c.router_f32 = c.expert_bias = c.f32_sums = true; },
       "silu, softmax then top-k, router in f32, expert biases, f32 output"},
      {[](auto& c) { c.path.input_norm = c.path.output_norm = true; },
       "silu, softmax then top-k, norm before the experts, norm after their sum"},
      {[](auto& c) { c.path.latent = 8; },
       "silu, softmax then top-k, experts work on a latent of 8"},
      {[](auto& c) { c.shared = {.intermediate = 16, .sigmoid_gated = true}; },
       "silu, softmax then top-k, shared expert 16 with a sigmoid gate"},
      {[](auto& c) { c.shared = {.intermediate = 16, .num_scored = 1}; },
       "silu, softmax then top-k, shared expert 16 (1, weighed by the gate)"},
      {[](auto& c) {
         c.shared = {.intermediate = 16, .activation = Activation{ActivationKind::Relu2}};
       },
       "silu, softmax then top-k, shared expert 16 with relu2"},
      {[](auto& c) { c.shared = {.intermediate = 16, .activation = c.activation}; },
       "silu, softmax then top-k, shared expert 16"},
      {[](auto& c) {
         c.activation = {ActivationKind::ClampedSwiglu, 1.5f, 7.0f};
       },
       "clamped_swiglu (alpha 1.5, limit 7), softmax then top-k"},
  };
  for (const auto& [change, text] : rows) EXPECT_EQ(described(change), text);
}

}  // namespace
}  // namespace switchyard
