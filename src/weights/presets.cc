// src/weights/presets.cc -- layers of known models by name. Shapes: the models' public config.json
// files.
#include "switchyard/checkpoint.h"
#include "weights/text.h"

namespace switchyard {
namespace {

MoeConfig shape(int64_t hidden, int64_t intermediate, int64_t num_experts, int64_t top_k) {
  MoeConfig c;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.num_experts = num_experts;
  c.top_k = top_k;
  return c;
}

MoeConfig renormalized(MoeConfig c) {
  c.gate.renormalize = true;
  return c;
}

// DeepSeek-V3's gate and its kin.
MoeConfig sigmoid_gated(MoeConfig c, int64_t groups, int64_t groups_kept, float scale) {
  c.gate.scoring = Scoring::Sigmoid;
  c.gate.correction_bias = c.gate.renormalize = true;
  c.gate.renormalize_epsilon = 1e-20f;
  c.gate.num_groups = groups;
  c.gate.num_groups_kept = groups_kept;
  c.gate.scale = scale;
  c.shared.intermediate = c.intermediate;
  return c;
}

MoeConfig qwen3_next() {
  MoeConfig c = renormalized(shape(2048, 512, 512, 10));
  c.shared = {512, true};
  return c;
}

MoeConfig gpt_oss() {
  MoeConfig c = shape(2880, 2880, 128, 4);
  c.activation.kind = ActivationKind::ClampedSwiglu;
  c.gate.scoring = Scoring::SoftmaxOfTopK;
  c.expert_bias = c.router_bias = true;
  return c;
}

MoeConfig llama_4_scout() {
  MoeConfig c = shape(5120, 8192, 16, 1);
  c.gate.scoring = Scoring::Sigmoid;
  c.router_weight_on_input = true;
  c.shared.intermediate = 8192;
  return c;
}

MoeConfig qwen3_5() {
  MoeConfig c = renormalized(shape(2048, 512, 256, 8));
  c.shared = {512, true};
  return c;
}

MoeConfig without_shared(MoeConfig c) {
  c.shared.intermediate = 0;
  return c;
}

MoeConfig minimax_m2() {
  MoeConfig c = without_shared(sigmoid_gated(shape(3072, 1536, 256, 8), 1, 1, 1.0f));
  c.gate.renormalize_epsilon = 0;
  c.router_f32 = true;
  return c;
}

MoeConfig minimax_m3() {
  MoeConfig c = sigmoid_gated(shape(6144, 3072, 128, 4), 1, 1, 2.0f);
  c.gate.renormalize_epsilon = 0;
  c.activation.kind = ActivationKind::ClampedSwiglu;
  c.router_f32 = true;
  return c;
}

// A layer whose experts the gate chooses.
MoeConfig deepseek_v4_flash() {
  MoeConfig c = sigmoid_gated(shape(4096, 2048, 256, 6), 1, 1, 1.5f);
  c.gate.scoring = Scoring::SqrtSoftplus;
  c.activation = {.kind = ActivationKind::SiluOfClamped, .limit = 10.0f};
  return c;
}

MoeConfig nemotron_3_nano() {
  MoeConfig c = sigmoid_gated(shape(2688, 1856, 128, 6), 1, 1, 2.5f);
  c.activation.kind = ActivationKind::Relu2;
  c.shared.intermediate = 3712;
  return c;
}

MoeConfig longcat_flash() {
  MoeConfig c = shape(6144, 2048, 512, 12);
  c.gate.correction_bias = c.router_f32 = true;
  c.gate.scale = 6;
  c.gate.num_zero_experts = 256;
  return c;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = {
      {"qwen3-30b-a3b", renormalized(shape(2048, 768, 128, 8))},
      {"qwen3-235b-a22b", renormalized(shape(4096, 1536, 128, 8))},
      {"qwen3-next-80b-a3b", qwen3_next()},
      {"mixtral-8x7b", renormalized(shape(4096, 14336, 8, 2))},
      {"olmoe-1b-7b", shape(2048, 1024, 64, 8)},
      {"glm-4.5-air", sigmoid_gated(shape(4096, 1408, 128, 8), 1, 1, 1.0f)},
      {"deepseek-v3", sigmoid_gated(shape(7168, 2048, 256, 8), 8, 4, 2.5f)},
      {"kimi-k2", sigmoid_gated(shape(7168, 2048, 384, 8), 1, 1, 2.827f)},
      {"gpt-oss-120b", gpt_oss()},
      {"llama-4-scout", llama_4_scout()},
      {"qwen3.5-35b-a3b", qwen3_5()},
      {"minimax-m2", minimax_m2()},
      {"minimax-m3", minimax_m3()},
      {"glm-5", sigmoid_gated(shape(6144, 2048, 256, 8), 1, 1, 2.5f)},
      {"mimo-v2-flash", without_shared(sigmoid_gated(shape(4096, 2048, 256, 8), 1, 1, 1.0f))},
      {"deepseek-v4-flash", deepseek_v4_flash()},
      {"nemotron-3-nano", nemotron_3_nano()},
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
