// src/weights/family_deepseek_v4.cc -- square roots of softplus as scores, always renormalised; in
// the first layers a token's id chooses its experts; all experts clamp what goes into silu.
#include "weights/family_parts.h"

namespace switchyard {
namespace {

// By mlp_layer_types, else the first num_hash_layers.
std::vector<int64_t> hashed_layers(const ConfigReader& config, int64_t num_layers) {
  const auto types = config.texts_or_none({"mlp_layer_types"});
  std::vector<int64_t> hashed;
  if (types.empty()) {
    const int64_t count = config.integer_or({"num_hash_layers"}, 3, 0);
    for (int64_t i = 0; i < std::min(count, num_layers); ++i) hashed.push_back(i);
  }
  for (size_t i = 0; i < types.size(); ++i)
    if (types[i] == "hash_moe") hashed.push_back(static_cast<int64_t>(i));
  return hashed;
}

}  // namespace

FamilyLayers describe_deepseek_v4(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  MoeConfig& c = f.config;
  use_sigmoid_gate(c.gate);
  c.gate.scoring = scoring_from_name(config, "scoring_func", "sqrtsoftplus");
  c.gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.5);
  clamp_before_silu(c.activation, config);
  add_shared_experts(c, num_shared_experts(config, 1));
  f.moe_layers = sparse_layers(config, f.num_layers, 0);
  for (const int64_t layer : hashed_layers(config, f.num_layers)) {
    MoeConfig& hashed = f.other_layers[layer] = c;
    hashed.gate.correction_bias = false;
    hashed.gate.vocabulary = config.integer({"vocab_size"});
  }

  const std::string ffn = "layers.{layer}.ffn";
  TensorNames hub = names_of_w_experts(ffn, {.correction_bias = ".gate.bias"});
  hub.token_experts = ffn + ".gate.tid2eid";
  hub.shared_gate = ffn + ".shared_experts.w1.weight";
  hub.shared_up = ffn + ".shared_experts.w3.weight";
  hub.shared_down = ffn + ".shared_experts.w2.weight";
  TensorNames in_memory = names_of_experts(
      kMlp, {.correction_bias = ".gate.e_score_correction_bias", .shared = ".shared_experts"});
  in_memory.token_experts = cat(kMlp, ".gate.tid2eid");
  f.forms = {hub, in_memory};
  return f;
}

}  // namespace switchyard
