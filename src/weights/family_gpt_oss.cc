// src/weights/family_gpt_oss.cc -- top-k then softmax, biases everywhere, clamped SwiGLU; the
// experts are stored transposed, gate and up alternating.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_gpt_oss(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  f.config.activation.kind = ActivationKind::ClampedSwiglu;  // whatever hidden_act says
  f.config.activation.limit = static_cast<float>(config.number_or({"swiglu_limit"}, 7.0));
  f.config.gate.scoring = Scoring::SoftmaxOfTopK;
  f.config.expert_bias = f.config.router_bias = true;
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  const std::string mlp = "model.layers.{layer}.mlp";
  f.names.router = mlp + ".router.weight";
  f.names.router_bias = mlp + ".router.bias";
  f.names.fused_gate_up = mlp + ".experts.gate_up_proj";
  f.names.fused_down = mlp + ".experts.down_proj";
  f.names.fused_gate_up_bias = mlp + ".experts.gate_up_proj_bias";
  f.names.fused_down_bias = mlp + ".experts.down_proj_bias";
  f.names.fused_transposed = f.names.fused_interleaved = true;
  return f;
}

}  // namespace switchyard
