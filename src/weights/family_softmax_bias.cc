// src/weights/family_softmax_bias.cc -- softmax over all experts, a correction bias for the choice.
#include <algorithm>

#include "weights/family_list.h"
#include "weights/family_parts.h"

namespace switchyard {
namespace {

constexpr const char* kMlp = "layers.{layer}.mlp";

// Weights divided by their sum or a floor.
FamilyLayers describe_ernie(const ConfigReader& config, FamilyLayers f) {
  GateConfig& gate = f.config.gate;
  gate.correction_bias = gate.renormalize = gate.clamp_renormalizer = true;
  gate.renormalize_epsilon = static_cast<float>(config.number_or({"moe_norm_min"}, 1e-12));
  SWITCHYARD_REQUIRE(!config.boolean_or({"use_bias"}, false), Unsupported,
                     "checkpoint: use_bias=true, experts of ernie4_5_moe are read without biases.");
  add_shared_experts(f.config, num_shared_experts(config, 2));
  return f;
}

}  // namespace

// MoE layers from one index to another in steps.
FamilyLayers describe_ernie4_5_moe(const ConfigReader& config) {
  FamilyLayers f = describe_ernie(config, common_layers(config));
  const int64_t last = config.integer_or({"moe_layer_end_index"}, -1);
  const int64_t end = last == -1 ? f.num_layers : std::min(f.num_layers - 1, last) + 1;
  const int64_t start = config.integer_or({"moe_layer_start_index"}, 1);
  f.moe_layers.clear();
  for (const int64_t layer : every_nth_layer(config.integer_or({"moe_layer_interval"}, 1), end))
    if (layer >= start) f.moe_layers.push_back(layer);

  TensorNames names = names_of_experts(kMlp);
  name_shared_expert(names, cat(kMlp, ".shared_experts"));
  names.correction_bias = cat(kMlp, ".moe_statics.e_score_correction_bias");
  TensorNames in_memory = names;
  in_memory.correction_bias = cat(kMlp, ".gate.moe_statics.e_score_correction_bias");
  f.forms = {names, in_memory};
  return f;
}

}  // namespace switchyard
