// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/presets.cc -- layers of known models by name. Shapes: the models' public config.json
// files.
#include "base/require.h"
#include "switchyard/checkpoint.h"

namespace switchyard {
namespace {

MoeConfig shape(int64_t hidden, int64_t intermediate, int64_t num_experts, int64_t top_k,
                const GateConfig& gate = {}, const SharedExpertConfig& shared = {},
                const Activation& activation = {}) {
  return {.hidden = hidden,
          .intermediate = intermediate,
          .num_experts = num_experts,
          .top_k = top_k,
          .activation = activation,
          .gate = gate,
          .shared = shared,
          .path = {}};
}

constexpr GateConfig kRenormalized{.renormalize = true};

// DeepSeek-V3's gate and its kin.
GateConfig sigmoid(float scale, int64_t groups = 1, int64_t groups_kept = 1) {
  return {.scoring = Scoring::Sigmoid,
          .renormalize = true,
          .renormalize_epsilon = 1e-20f,
          .scale = scale,
          .correction_bias = true,
          .num_groups = groups,
          .num_groups_kept = groups_kept};
}

// A router of f32, and no epsilon.
MoeConfig minimax(MoeConfig c) {
  c.gate.renormalize_epsilon = 0;
  c.router_f32 = true;
  return c;
}

MoeConfig gpt_oss() {
  MoeConfig c = shape(2880, 2880, 128, 4, {.scoring = Scoring::SoftmaxOfTopK}, {},
                      {.kind = ActivationKind::ClampedSwiglu});
  c.expert_bias = c.router_bias = true;
  return c;
}

MoeConfig llama_4_scout() {
  MoeConfig c = shape(5120, 8192, 16, 1, {.scoring = Scoring::Sigmoid}, {8192});
  c.router_weight_on_input = true;
  return c;
}

// A layer whose experts the gate chooses.
MoeConfig deepseek_v4_flash() {
  MoeConfig c = shape(4096, 2048, 256, 6, sigmoid(1.5f), {2048},
                      {.kind = ActivationKind::SiluOfClamped, .limit = 10.0f});
  c.gate.scoring = Scoring::SqrtSoftplus;
  return c;
}

MoeConfig longcat_flash() {
  MoeConfig c =
      shape(6144, 2048, 512, 12, {.scale = 6, .correction_bias = true, .num_zero_experts = 256});
  c.router_f32 = true;
  return c;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = {
      {"qwen3-30b-a3b", shape(2048, 768, 128, 8, kRenormalized)},
      {"qwen3-235b-a22b", shape(4096, 1536, 128, 8, kRenormalized)},
      {"qwen3-next-80b-a3b", shape(2048, 512, 512, 10, kRenormalized, {512, true})},
      {"mixtral-8x7b", shape(4096, 14336, 8, 2, kRenormalized)},
      {"olmoe-1b-7b", shape(2048, 1024, 64, 8)},
      {"glm-4.5-air", shape(4096, 1408, 128, 8, sigmoid(1.0f), {1408})},
      {"deepseek-v3", shape(7168, 2048, 256, 8, sigmoid(2.5f, 8, 4), {2048})},
      {"kimi-k2", shape(7168, 2048, 384, 8, sigmoid(2.827f), {2048})},
      {"gpt-oss-120b", gpt_oss()},
      {"llama-4-scout", llama_4_scout()},
      {"qwen3.5-35b-a3b", shape(2048, 512, 256, 8, kRenormalized, {512, true})},
      {"minimax-m2", minimax(shape(3072, 1536, 256, 8, sigmoid(1.0f)))},
      {"minimax-m3", minimax(shape(6144, 3072, 128, 4, sigmoid(2.0f), {3072},
                                   {.kind = ActivationKind::ClampedSwiglu}))},
      {"glm-5", shape(6144, 2048, 256, 8, sigmoid(2.5f), {2048})},
      {"mimo-v2-flash", shape(4096, 2048, 256, 8, sigmoid(1.0f))},
      {"deepseek-v4-flash", deepseek_v4_flash()},
      {"nemotron-3-nano",
       shape(2688, 1856, 128, 6, sigmoid(2.5f), {3712}, {.kind = ActivationKind::Relu2})},
      {"longcat-flash", longcat_flash()},
  };
  return all;
}

const Preset& find_preset(std::string_view name) {
  std::vector<std::string> names;
  for (const auto& p : presets()) {
    if (p.name == name) return p;
    names.push_back(p.name);
  }
  throw Error(Errc::Unsupported, cat("preset: name=", name, ", known are ", joined(names), "."));
}

}  // namespace switchyard
