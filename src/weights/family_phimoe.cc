// src/weights/family_phimoe.cc -- sparse mixer of two experts; w1 is gate, w3 is up.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_phimoe(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  f.config.gate.scoring = Scoring::SparseMixer;
  f.config.gate.jitter_epsilon =
      static_cast<float>(config.number_or({"router_jitter_noise"}, 0.01));
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  name_experts(f.names, "model.layers.{layer}.block_sparse_moe", "w1", "w3", "w2");
  return f;
}

}  // namespace switchyard
