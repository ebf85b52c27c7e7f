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

}  // namespace
}  // namespace switchyard
