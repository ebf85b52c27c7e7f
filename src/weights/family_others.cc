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
  names.fused_gate_up = block + ".experts.gate_up_proj";
  names.fused_down = block + ".experts.down_proj";
  names.fused = Fused::Transposed;
  name_shared_expert(names, block + ".shared_expert");
  f.forms = {names};
  add_shared_experts(f.config, 1);
  return f;
}

}  // namespace switchyard
