// src/weights/family_others.cc -- gates that no other family has.
#include "weights/family_parts.h"

namespace switchyard {

// Sparse mixer of two experts; w1 is gate, w3 is up.
FamilyLayers describe_phimoe(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.config.gate.scoring = Scoring::SparseMixer;
  f.config.gate.jitter_epsilon =
      static_cast<float>(config.number_or({"router_jitter_noise"}, 0.01));
  f.forms = {names_of_w_experts(kSparseMoe), names_of_experts(kMlp, {.router = ".router.weight"})};
  return f;
}

// Sigmoid top-1 with the weight on the input; a shared expert as wide as a routed one; experts in
// one tensor, transposed. The text model, alone or nested.
FamilyLayers describe_llama4(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.config.gate.scoring = Scoring::Sigmoid;
  f.config.router_weight_on_input = true;
  f.moe_layers = config.integers_or_none({"moe_layers"});
  if (!config.has({"moe_layers"}))
    f.moe_layers =
        every_nth_layer(config.integer_or({"interleave_moe_layer_step"}, 1), f.num_layers);
  const std::string block = "layers.{layer}.feed_forward";
  f.module = "model." + block;
  f.nested_module = "language_model.model." + block;
  TensorNames names;
  names.router = block + ".router.weight";
  name_fused_experts(names, block);
  names.fused = Fused::Transposed;
  name_shared_expert(names, block + ".shared_expert");
  f.forms = {names};
  add_shared_experts(f.config, 1);
  return f;
}

// gemma4: the router sees normed and scaled hidden states, softmax then top-k, renormalised, then a
// scale per expert; norms before and after the experts.
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
  name_fused_experts(names, layer);
  names.input_norm = layer + ".pre_feedforward_layernorm_2.weight";
  names.output_norm = layer + ".post_feedforward_layernorm_2.weight";
  f.forms = {names};
  f.module = "model." + layer + ".moe";
  return f;
}

// Sigmoid scores of routed and shared experts, renormalised over both, scaled by a constant and a
// tensor; a correction bias for the choice.
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

  const std::string mlp = kMlp;
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
  name_fused_experts(in_memory, mlp);
  in_memory.shared_gate = mlp + ".shared_experts.gate_proj";
  in_memory.shared_up = mlp + ".shared_experts.up_proj";
  in_memory.shared_down = mlp + ".shared_experts.down_proj";
  f.forms = {hub, in_memory};
  return f;
}

}  // namespace switchyard
