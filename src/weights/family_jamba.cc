// src/weights/family_jamba.cc -- softmax then top-k, as it comes; every few layers.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_jamba(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  f.num_layers = num_layers_of(config);
  f.moe_layers = every_layer_of(config.integer_or({"expert_layer_offset"}, 1),
                                config.integer_or({"expert_layer_period"}, 2), f.num_layers);
  f.module = "model.layers.{layer}.feed_forward";
  name_experts(f.names, f.module, "gate_proj", "up_proj", "down_proj");
  f.names.router = f.module + ".router.weight";
  return f;
}

}  // namespace switchyard
