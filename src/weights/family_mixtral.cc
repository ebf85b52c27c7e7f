// src/weights/family_mixtral.cc -- mixtral, minimax: softmax then top-k, always renormalised; w1 is
// gate, w3 is up.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_mixtral(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  f.config.gate.renormalize = true;
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  name_experts(f.names, "model.layers.{layer}.block_sparse_moe", "w1", "w3", "w2");
  return f;
}

}  // namespace switchyard
