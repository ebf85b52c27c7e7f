// src/weights/family_step.cc -- step3p5, step3p7: sigmoid scores with a correction bias,
// renormalised and scaled; some layers clamp what comes out of silu, the shared expert elsewhere
// than the routed ones.
#include "weights/family_parts.h"

namespace switchyard {
namespace {

Activation activation_of(double limit) {
  Activation a;
  clamp_activation(a, ActivationKind::ClampedSilu, limit);
  return a;
}

// 0 where the list ends or is absent: no clamp.
double limit_at(const std::vector<double>& limits, int64_t layer) {
  const auto i = static_cast<size_t>(layer);
  return i < limits.size() ? limits[i] : 0.0;
}

// "3,4,5" or a list; from the fourth layer on without one.
std::vector<int64_t> step_layers(const ConfigReader& config, int64_t num_layers) {
  if (config.has({"mlp_layer_types"})) return sparse_layers(config, num_layers, 0);
  std::vector<int64_t> listed = config.integers_of_text_or_list("moe_layers_enum");
  std::erase_if(listed, [&](int64_t layer) { return layer >= num_layers; });
  return config.has({"moe_layers_enum"}) ? listed : layers_from(3, num_layers);
}

}  // namespace

FamilyLayers describe_step(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  MoeConfig& c = f.config;
  use_sigmoid_gate(c.gate, 0);
  c.gate.correction_bias = config.boolean_or({"use_moe_router_bias"}, true);
  c.gate.renormalize = config.boolean_or({"norm_expert_weight"}, true);
  c.gate.scale = scale_of(config, {"moe_router_scaling_factor"}, 1.0);
  c.shared.intermediate = config.integer_or({"share_expert_dim", "share_expert_dims"}, 1280, 0);
  f.moe_layers = step_layers(config, f.num_layers);
  const auto routed = config.numbers_or_none({"swiglu_limits"});
  const auto shared = config.numbers_or_none({"swiglu_limits_shared"});
  for (const int64_t layer : f.moe_layers) {
    MoeConfig own = c;
    own.activation = activation_of(limit_at(routed, layer));
    own.shared.activation = activation_of(limit_at(shared, layer));
    f.other_layers[layer] = own;
  }

  const std::string moe = "layers.{layer}.moe";
  TensorNames hub;
  hub.router = moe + ".gate.weight";
  hub.correction_bias = moe + ".router_bias";
  hub.stacked_gate = moe + ".gate_proj.weight";
  hub.stacked_up = moe + ".up_proj.weight";
  hub.fused_down = moe + ".down_proj.weight";
  name_shared_expert(hub, "layers.{layer}.share_expert");
  f.forms = {hub, names_of_experts(kMlp, {.correction_bias = ".gate.e_score_correction_bias",
                                          .shared = ".shared_experts"})};
  f.module = f.nested_module = cat("model.language_model.", kMlp);
  return f;
}

}  // namespace switchyard
