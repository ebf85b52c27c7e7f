// src/weights/family_nemotron_h.cc -- DeepSeek-V3's gate; experts of two matrices with relu^2
// between them, perhaps on a latent; a pattern says which layers are MoE layers.
#include "weights/family_parts.h"

namespace switchyard {
namespace {

constexpr const char* kMixer = "layers.{layer}.mixer";

// One entry per layer: 'E' of the pattern, or "moe".
std::vector<std::string> block_types(const ConfigReader& config) {
  auto types = config.texts_or_none({"layers_block_type"});
  if (!types.empty()) return types;
  for (const char kind : config.text({"hybrid_override_pattern"}))
    types.emplace_back(kind == 'E' ? "moe" : "other");
  return types;
}

}  // namespace

FamilyLayers describe_nemotron_h(const ConfigReader& config) {
  FamilyLayers f;
  MoeConfig& c = f.config;
  c.hidden = config.integer({"hidden_size"});
  c.intermediate = config.integer({"moe_intermediate_size"});
  c.num_experts = config.integer({"n_routed_experts", "num_local_experts"});
  c.top_k = config.integer({"num_experts_per_tok"});
  c.activation = activation_of(config, {"mlp_hidden_act"}, "relu2");
  use_sigmoid_gate(c.gate);
  c.gate.renormalize = config.boolean_or({"norm_topk_prob"}, true);
  c.gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.0);
  c.gate.num_groups = config.integer_or({"n_group"}, 1, 1);
  c.gate.num_groups_kept = config.integer_or({"topk_group"}, 1, 1);
  if (num_shared_experts(config, 1) > 0)
    c.shared.intermediate = config.integer_or({"moe_shared_expert_intermediate_size"}, 7688, 0);
  c.path.latent = config.integer_or({"moe_latent_size"}, 0, 0);

  const auto types = block_types(config);
  f.num_layers = static_cast<int64_t>(types.size());
  for (int64_t i = 0; i < f.num_layers; ++i)
    if (types[static_cast<size_t>(i)] == "moe") f.moe_layers.push_back(i);

  TensorNames names = names_of_experts(
      kMixer, {.correction_bias = ".gate.e_score_correction_bias", .shared = ".shared_experts"});
  names.fused_gate_up.clear();
  names.stacked_up = cat(kMixer, ".experts.up_proj");
  names.path_down = cat(kMixer, ".fc1_latent_proj.weight");
  names.path_up = cat(kMixer, ".fc2_latent_proj.weight");
  f.forms = {names};
  f.module = cat("model.", kMixer);
  return f;
}

}  // namespace switchyard
