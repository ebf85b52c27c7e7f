// src/weights/family_inkling.cc -- sigmoid scores of routed and shared experts, renormalised over
// both, scaled by a constant and a tensor; a correction bias for the choice.
#include "weights/family_parts.h"

namespace switchyard {

FamilyLayers describe_inkling(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  MoeConfig& c = f.config;
  // With a width of its own for dense layers, intermediate_size is that of the experts.
  if (config.has({"dense_intermediate_size"}))
    c.intermediate = config.integer({"intermediate_size"});
  use_sigmoid_gate(c.gate, 0);
  c.gate.scale = scale_of(config, {"route_scale"}, 8.0);
  c.gate.expert_scale = true;
  const int64_t shared = num_shared_experts(config, 2);
  add_shared_experts(c, shared);
  c.shared.num_scored = shared;
  f.moe_layers = sparse_layers(config, f.num_layers, config.integer_or({"dense_mlp_idx"}, 0, 0));

  const std::string mlp = "layers.{layer}.mlp";
  TensorNames in_memory;
  in_memory.router = mlp + ".gate.weight";
  in_memory.global_scale = mlp + ".gate.global_scale";
  TensorNames hub = in_memory;
  hub.correction_bias = mlp + ".gate.bias";
  hub.fused_gate_up = mlp + ".experts.w13_weight";
  hub.fused_down = mlp + ".experts.w2_weight";
  hub.fused_interleaved = hub.shared_interleaved = true;
  hub.shared_gate_up = mlp + ".shared_experts.shared_w13_weight";
  hub.shared_down = mlp + ".shared_experts.shared_w2_weight";
  in_memory.correction_bias = mlp + ".gate.e_score_correction_bias";
  in_memory.fused_gate_up = mlp + ".experts.gate_up_proj";
  in_memory.fused_down = mlp + ".experts.down_proj";
  in_memory.shared_gate = mlp + ".shared_experts.gate_proj";
  in_memory.shared_up = mlp + ".shared_experts.up_proj";
  in_memory.shared_down = mlp + ".shared_experts.down_proj";
  f.forms = {hub, in_memory};
  return f;
}

}  // namespace switchyard
