// src/weights/family_sigmoid.cc -- sigmoid scores, a correction bias for the choice, perhaps groups
// by their two best, renormalised and scaled; shared experts; the first layers may be dense.
#include "weights/family_parts.h"

namespace switchyard {
namespace {

// Of DeepSeek-V3 and most others.
constexpr BlockNames kNames = {.correction_bias = ".gate.e_score_correction_bias",
                               .shared = ".shared_experts"};

// What a family has where its config says nothing.
struct Defaults {
  double scale = 1;
  bool renormalize = true;
  int64_t groups = 1, groups_kept = 1;
  int64_t shared = 1;
  int64_t first_dense = 0;
};

FamilyLayers describe_sigmoid(const ConfigReader& config, const Defaults& absent) {
  FamilyLayers f = common_layers(config);
  GateConfig& gate = f.config.gate;
  use_sigmoid_gate(gate);
  gate.renormalize = config.boolean_or({"norm_topk_prob", "moe_renormalize"}, absent.renormalize);
  gate.scale = scale_of(config, {"routed_scaling_factor"}, absent.scale);
  gate.num_groups = config.integer_or({"n_group", "num_expert_group"}, absent.groups, 1);
  gate.num_groups_kept = config.integer_or({"topk_group"}, absent.groups_kept, 1);
  add_shared_experts(f.config, num_shared_experts(config, absent.shared));
  f.moe_layers = sparse_layers(config, f.num_layers, absent.first_dense);
  f.forms = {names_of_experts(kMlp, kNames)};
  return f;
}

}  // namespace

FamilyLayers describe_deepseek_v3(const ConfigReader& config) {
  return describe_sigmoid(config, {.scale = 2.5, .groups = 8, .groups_kept = 4, .first_dense = 3});
}

FamilyLayers describe_glm4_moe(const ConfigReader& config) {
  return describe_sigmoid(config, {.first_dense = 1});
}

FamilyLayers describe_glm4_moe_lite(const ConfigReader& config) {
  return describe_sigmoid(config, {.scale = 1.8, .first_dense = 1});
}

FamilyLayers describe_glm_moe_dsa(const ConfigReader& config) {
  return describe_sigmoid(config, {.scale = 2.5, .first_dense = 3});
}

FamilyLayers describe_dots1(const ConfigReader& config) {
  return describe_sigmoid(config, {.renormalize = false, .shared = 0});
}

FamilyLayers describe_solar_open(const ConfigReader& config) {
  return describe_sigmoid(config, {});
}

FamilyLayers describe_mimo_v2_flash(const ConfigReader& config) {
  return describe_sigmoid(config, {.shared = 0, .first_dense = 1});
}

// Routed experts clamp what goes into their activation, the shared one does not.
FamilyLayers describe_hy_v4(const ConfigReader& config) {
  FamilyLayers f = describe_sigmoid(config, {.scale = 2.827, .first_dense = 1});
  f.config.shared.activation = f.config.activation;
  clamp_before_silu(f.config.activation, config);
  return f;
}

FamilyLayers describe_glm5_next(const ConfigReader& config) {
  FamilyLayers f = describe_sigmoid(config, {.scale = 2.5, .first_dense = 3});
  clamp_before_silu(f.config.activation, config);
  return f;
}

FamilyLayers describe_exaone_moe(const ConfigReader& config) {
  FamilyLayers f = describe_sigmoid(config, {.scale = 2.5, .first_dense = 1});
  TensorNames hub = f.forms.front();
  hub.correction_bias = cat(kMlp, ".e_score_correction_bias");
  f.forms.insert(f.forms.begin(), hub);
  return f;
}

FamilyLayers describe_kimi_linear(const ConfigReader& config) {
  FamilyLayers f = describe_sigmoid(config, {.scale = 2.446, .first_dense = 1});
  f.forms.insert(f.forms.begin(), names_of_w_experts(kSparseMoe, kNames));
  return f;
}

// Kimi-Linear's gate; routed experts work on a latent, whose sum is normed; SiTU.
FamilyLayers describe_kimi_k3(const ConfigReader& config) {
  FamilyLayers f = describe_kimi_linear(config);
  MoeConfig& c = f.config;
  Activation& act = c.activation;
  if (act.kind == ActivationKind::Situ) {
    act.alpha = static_cast<float>(config.number_or({"activation_situ_beta"}, 4.0));
    act.limit = static_cast<float>(config.number_or({"activation_situ_linear_beta"}, 25.0));
  }
  c.path.latent = config.integer_or({"routed_expert_hidden_size"}, 0, 0);
  c.path.output_norm = c.path.latent > 0 && config.boolean_or({"latent_moe_use_norm"}, false);
  c.path.norm_epsilon = static_cast<float>(config.number_or({"rms_norm_eps"}, 1e-5));
  for (const size_t form : {0, 1}) {
    TensorNames& names = f.forms[form];
    const std::string block = form == 0 ? kSparseMoe : kMlp;
    names.path_down = block + ".routed_expert_down_proj.weight";
    names.output_norm = block + ".routed_expert_norm.weight";
    names.path_up = block + ".routed_expert_up_proj.weight";
  }
  f.nested_module = cat("language_model.model.", kSparseMoe);
  return f;
}

// Neither scale nor shared experts; no epsilon.
FamilyLayers describe_minimax_m2(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  use_sigmoid_gate(f.config.gate, 0);
  f.config.gate.correction_bias = config.boolean_or({"use_routing_bias"}, true);
  constexpr BlockNames kOwn = {.correction_bias = ".e_score_correction_bias"};
  f.forms = {names_of_w_experts(kSparseMoe, kOwn), names_of_experts(kMlp, kOwn)};
  return f;
}

// MiniMax-M2's gate, scaled; a shared expert; gpt-oss's activation in separate matrices.
FamilyLayers describe_minimax_m3(const ConfigReader& config) {
  FamilyLayers f = describe_minimax_m2(config);
  MoeConfig& c = f.config;
  c.gate.scale = scale_of(config, {"routed_scaling_factor"}, 2.0);
  c.activation.kind = ActivationKind::ClampedSwiglu;
  c.activation.alpha = static_cast<float>(config.number_or({"swiglu_alpha"}, 1.702));
  c.activation.limit = static_cast<float>(config.number_or({"swiglu_limit"}, 7.0));
  f.unread = {{"hidden_act", "\"silu\""}};  // what transformers 5 writes; it is not read there
  c.shared.intermediate = config.integer_or({"shared_intermediate_size"}, 3072, 0);
  f.moe_layers = sparse_layers(config, f.num_layers, 0);
  TensorNames &hub = f.forms[0], &in_memory = f.forms[1];
  name_shared_expert(hub, cat(kSparseMoe, ".shared_experts"));
  in_memory.correction_bias = cat(kMlp, ".gate.e_score_correction_bias");
  in_memory.shared_gate_up = cat(kMlp, ".shared_experts.gate_up_proj.weight");
  in_memory.shared_down = cat(kMlp, ".shared_experts.down_proj.weight");
  return f;
}

// Always renormalised, without epsilon; logits may be capped.
FamilyLayers describe_laguna(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  MoeConfig& c = f.config;
  use_sigmoid_gate(c.gate, 0);
  c.gate.scale = scale_of(config, {"moe_routed_scaling_factor"}, 1.0);
  c.gate.logit_softcap =
      static_cast<float>(config.number_or({"moe_router_logit_softcapping"}, 0.0, 0.0));
  c.shared.intermediate = config.integer_or({"shared_expert_intermediate_size"}, 512, 0);
  f.moe_layers = sparse_layers(config, f.num_layers, 1);
  f.forms = {names_of_experts(kMlp, {.correction_bias = ".experts.e_score_correction_bias",
                                     .shared = ".shared_expert"}),
             names_of_experts(kMlp, kNames)};
  return f;
}

FamilyLayers describe_hy_v3(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  use_sigmoid_gate(f.config.gate);
  f.config.gate.scale = scale_of(config, {"router_scaling_factor"}, 2.826);
  add_shared_experts(f.config, num_shared_experts(config, 1));
  f.moe_layers = sparse_layers(config, f.num_layers, 1);
  f.forms = {names_of_experts(kMlp, {".router.gate.weight", ".expert_bias", ".shared_mlp"}),
             names_of_experts(kMlp, {.correction_bias = ".e_score_correction_bias",
                                     .shared = ".shared_experts"})};
  return f;
}

FamilyLayers describe_afmoe(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  use_sigmoid_gate(f.config.gate);
  f.config.gate.scale = scale_of(config, {"route_scale"}, 1.0);
  add_shared_experts(f.config, num_shared_experts(config, 2));
  f.moe_layers = layers_from(config.integer_or({"num_dense_layers"}, 1, 0), f.num_layers);
  f.forms = {names_of_experts(kMlp, {".router.gate.weight", ".expert_bias", ".shared_experts"})};
  return f;
}

// No shared expert; a larger epsilon.
FamilyLayers describe_lfm2_moe(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  GateConfig& gate = f.config.gate;
  use_sigmoid_gate(gate, 1e-6f);
  gate.correction_bias = config.boolean_or({"use_expert_bias"}, true);
  gate.renormalize = config.boolean_or({"norm_topk_prob"}, true);
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.0);
  f.moe_layers = layers_from(config.integer_or({"num_dense_layers"}, 2, 0), f.num_layers);
  const std::string block = "layers.{layer}.feed_forward";
  f.module = "model." + block;
  f.forms = {names_of_w_experts(block, {.correction_bias = ".expert_bias"})};
  return f;
}

}  // namespace switchyard
