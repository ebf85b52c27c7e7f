// src/weights/family_granitemoe.cc -- top-k then softmax; all experts in one tensor.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_granitemoe(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  f.config.gate.scoring = Scoring::SoftmaxOfTopK;
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  f.module = "model.layers.{layer}.block_sparse_moe";
  f.names.router = f.module + ".router.layer.weight";
  f.names.fused_gate_up = f.module + ".input_linear.weight";
  f.names.fused_down = f.module + ".output_linear.weight";
  return f;
}

}  // namespace switchyard
