// src/weights/family_hunyuan_v1_moe.cc -- softmax then top-k, renormalised; a shared expert as wide
// as a routed one. Sizes may be lists, one entry per layer.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_hunyuan_v1_moe(const ConfigReader& config) {
  FamilyLayers f;
  MoeConfig& c = f.config;
  c.hidden = config.integer({"hidden_size"});
  c.intermediate = config.integer({"intermediate_size"});
  c.num_experts = config.integer_of_all_layers({"num_experts"});
  c.top_k = config.integer_of_all_layers({"moe_topk"});
  c.activation = activation_from_name(config.text_or({"hidden_act"}, "silu"));
  c.gate.renormalize = true;
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  const std::string mlp = "model.layers.{layer}.mlp";
  name_experts(f.names, mlp, "gate_proj", "up_proj", "down_proj");
  f.names.router = mlp + ".gate.wg.weight";
  add_shared_experts(f, 1, mlp + ".shared_mlp");
  return f;
}

}  // namespace switchyard
