// src/weights/presets.cc -- layers of known models by name. Shapes: the models' public config.json
// files.
#include "base/require.h"
#include "switchyard/checkpoint.h"

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
  };
  return all;
}

const Preset& find_preset(std::string_view name) {
  std::string names;
  for (const auto& p : presets()) {
    if (p.name == name) return p;
    names += cat(names.empty() ? "" : ", ", p.name);
  }
  throw Error(Errc::Unsupported, cat("preset: name=", name, ", known are ", names, "."));
}

}  // namespace switchyard
