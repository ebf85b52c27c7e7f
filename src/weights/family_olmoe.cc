// src/weights/family_olmoe.cc -- olmoe, flex_olmo: softmax then top-k, as it comes.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_olmoe(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  f.config.gate.renormalize = config.boolean_or({"norm_topk_prob"}, false);
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  name_experts(f.names, "model.layers.{layer}.mlp", "gate_proj", "up_proj", "down_proj");
  return f;
}

}  // namespace switchyard
