// src/weights/family_ernie4_5_moe.cc -- softmax, a correction bias for the choice, weights divided
// by their sum or a floor; shared experts; MoE layers from one index to another in steps.
#include <algorithm>

#include "base/require.h"
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_ernie4_5_moe(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  GateConfig& gate = f.config.gate;
  gate.correction_bias = gate.renormalize = gate.clamp_renormalizer = true;
  gate.renormalize_epsilon = static_cast<float>(config.number_or({"moe_norm_min"}, 1e-12));
  SWITCHYARD_REQUIRE(!config.boolean_or({"use_bias"}, false), Unsupported,
                     "checkpoint: use_bias=true, experts of ernie4_5_moe are read without biases.");

  f.num_layers = num_layers_of(config);
  const int64_t last = config.integer_or({"moe_layer_end_index"}, -1);
  const int64_t end = last == -1 ? f.num_layers : std::min(f.num_layers - 1, last) + 1;
  const int64_t start = config.integer_or({"moe_layer_start_index"}, 1);
  for (const int64_t layer : every_nth_layer(config.integer_or({"moe_layer_interval"}, 1), end))
    if (layer >= start) f.moe_layers.push_back(layer);

  const std::string mlp = "model.layers.{layer}.mlp";
  name_experts(f.names, mlp, "gate_proj", "up_proj", "down_proj");
  f.names.correction_bias = mlp + ".moe_statics.e_score_correction_bias";
  add_shared_experts(f, config.integer_or({"moe_num_shared_experts"}, 2), mlp + ".shared_experts");
  return f;
}

}  // namespace switchyard
