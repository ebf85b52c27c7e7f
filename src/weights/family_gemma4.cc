// src/weights/family_gemma4.cc -- gemma4: the router sees normed and scaled hidden states, softmax
// then top-k, renormalised, then a scale per expert; norms before and after the experts.
#include "base/require.h"
#include "weights/family_parts.h"

namespace switchyard {

FamilyLayers describe_gemma4(const ConfigReader& config) {
  SWITCHYARD_REQUIRE(config.boolean_or({"enable_moe_block"}, false), Unsupported,
                     "checkpoint: ", config.file(),
                     ", enable_moe_block=false, the model has no MoE layers. Use one that has.");
  FamilyLayers f = common_layers(config);
  MoeConfig& c = f.config;
  c.gate.renormalize = c.gate.expert_scale = c.gate.rms_of_hidden = true;
  c.router_f32 = true;  // the columns' scales are folded into it
  c.path.input_norm = c.path.output_norm = true;
  c.path.norm_epsilon = static_cast<float>(config.number_or({"rms_norm_eps"}, 1e-6));
  const std::string layer = "layers.{layer}";
  TensorNames names;
  names.router = layer + ".router.proj.weight";
  names.router_scale = layer + ".router.scale";
  names.expert_scale = layer + ".router.per_expert_scale";
  names.fused_gate_up = layer + ".experts.gate_up_proj";
  names.fused_down = layer + ".experts.down_proj";
  names.input_norm = layer + ".pre_feedforward_layernorm_2.weight";
  names.output_norm = layer + ".post_feedforward_layernorm_2.weight";
  f.forms = {names};
  f.module = "model." + layer + ".moe";
  return f;
}

}  // namespace switchyard
