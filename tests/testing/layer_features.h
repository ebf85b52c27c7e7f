// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/layer_features.h -- a small layer for each thing that few models have, and a few
// with several.
#pragma once

#include <string>
#include <vector>

#include "switchyard/config.h"
#include "testing/buffer.h"

namespace switchyard::testing {

struct LayerFeature {
  std::string name;
  MoeConfig config;
};

inline MoeConfig plain_layer() {
  MoeConfig c;
  c.hidden = 128;
  c.intermediate = 64;
  c.num_experts = 16;
  c.top_k = 4;
  c.gate.renormalize = true;
  return c;
}

inline MoeConfig sigmoid_layer() {
  MoeConfig c = plain_layer();
  c.gate.scoring = Scoring::Sigmoid;
  c.gate.correction_bias = true;
  c.gate.renormalize_epsilon = 1e-20f;
  c.gate.scale = 2.5f;
  c.shared.intermediate = 48;
  return c;
}

inline MoeConfig with_activation(MoeConfig c, ActivationKind kind, float alpha, float limit) {
  c.activation = {kind, alpha, limit};
  return c;
}

inline std::vector<LayerFeature> layer_features() {
  std::vector<LayerFeature> all;
  const auto add = [&](const char* name, MoeConfig base, auto change) {
    change(base);
    all.push_back({name, base});
  };
  add("router_f32", sigmoid_layer(), [](MoeConfig& c) { c.router_f32 = true; });
  add("router_f32_with_bias", plain_layer(), [](MoeConfig& c) {
    c.router_f32 = c.router_bias = true;
    c.gate.scoring = Scoring::SoftmaxOfTopK;
  });
  add("sqrt_softplus", sigmoid_layer(),
      [](MoeConfig& c) { c.gate.scoring = Scoring::SqrtSoftplus; });
  add("logit_softcap", sigmoid_layer(), [](MoeConfig& c) { c.gate.logit_softcap = 0.7f; });
  add("chosen_by_token", sigmoid_layer(), [](MoeConfig& c) {
    c.gate.scoring = Scoring::SqrtSoftplus;
    c.gate.correction_bias = false;
    c.gate.vocabulary = 50;
  });
  add("zero_experts", plain_layer(), [](MoeConfig& c) {
    c.router_f32 = c.gate.correction_bias = true;
    c.gate.renormalize = false;
    c.gate.num_zero_experts = 8;
    c.gate.scale = 6;
    c.top_k = 6;
  });
  add("more_choices_than_experts", plain_layer(), [](MoeConfig& c) {
    c.num_experts = 4;
    c.gate.num_zero_experts = 4;
    c.top_k = 6;
  });
  add("scored_shared", sigmoid_layer(), [](MoeConfig& c) {
    c.shared = {.intermediate = 128, .num_scored = 2};
    c.gate.renormalize_epsilon = 0;
    c.gate.expert_scale = c.router_f32 = true;
  });
  add("norms_around", plain_layer(), [](MoeConfig& c) {
    c.router_f32 = c.gate.expert_scale = c.gate.rms_of_hidden = true;
    c.path.input_norm = c.path.output_norm = true;
    c.activation.kind = ActivationKind::GeluTanhGated;
  });
  add("norm_before_only", plain_layer(), [](MoeConfig& c) { c.path.input_norm = true; });
  add("norm_after_only", plain_layer(), [](MoeConfig& c) { c.path.output_norm = true; });
  add("latent", sigmoid_layer(), [](MoeConfig& c) {
    c.activation.kind = ActivationKind::Relu2;
    c.path.latent = 64;
  });
  add("latent_with_norm", with_activation(sigmoid_layer(), ActivationKind::Situ, 4, 25),
      [](MoeConfig& c) {
        c.path.latent = 72;
        c.path.output_norm = true;
        c.shared.sigmoid_gated = true;
      });
  add("silu_of_clamped", with_activation(plain_layer(), ActivationKind::SiluOfClamped, 0, 0.4f),
      [](MoeConfig&) {});
  add("clamped_silu", with_activation(plain_layer(), ActivationKind::ClampedSilu, 0, 0.3f),
      [](MoeConfig&) {});
  add("situ", with_activation(plain_layer(), ActivationKind::Situ, 0.5f, 0.8f), [](MoeConfig&) {});
  add("shared_with_another_activation", sigmoid_layer(), [](MoeConfig& c) {
    c.shared.activation = Activation{ActivationKind::ClampedSilu, 0, 0.25f};
  });
  add("shared_without_a_gate", sigmoid_layer(),
      [](MoeConfig& c) { c.shared.activation = Activation{.kind = ActivationKind::Relu2}; });
  return all;
}

// Token ids of a layer that chooses by them, one of two widths; empty for others.
inline Buffer<int64_t> token_ids_for(const MoeConfig& c, int64_t num_tokens, uint64_t seed) {
  if (c.gate.vocabulary == 0) return Buffer<int64_t>({0});
  Buffer<int64_t> ids({num_tokens});
  std::mt19937_64 rng(seed);
  for (int64_t t = 0; t < num_tokens; ++t)
    ids[t] = static_cast<int64_t>(rng() % static_cast<uint64_t>(c.gate.vocabulary));
  return ids;
}

}  // namespace switchyard::testing
