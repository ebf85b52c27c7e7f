// src/weights/family_deepseek_v3.cc -- deepseek_v3, glm4_moe, dots1: sigmoid scores, a correction
// bias for the choice, groups by their two best, renormalised and scaled; shared experts; the first
// layers are dense.
#include "base/require.h"
#include "weights/family.h"

namespace switchyard {
namespace {

constexpr const char* kMlp = "model.layers.{layer}.mlp";

FamilyLayers describe_sigmoid_family(const ConfigReader& config, double default_scale,
                                     bool renormalize_by_default = true) {
  FamilyLayers f;
  MoeConfig& c = f.config;
  c = common_config(config);
  c.gate.scoring = Scoring::Sigmoid;
  c.gate.correction_bias = true;
  c.gate.renormalize = config.boolean_or({"norm_topk_prob"}, renormalize_by_default);
  c.gate.renormalize_epsilon = 1e-20f;
  c.gate.scale = static_cast<float>(config.number_or({"routed_scaling_factor"}, default_scale));
  c.gate.num_groups = config.integer_or({"n_group"}, 1);
  c.gate.num_groups_kept = config.integer_or({"topk_group"}, 1);
  add_shared_experts(f, config.integer_or({"n_shared_experts"}, 1), cat(kMlp, ".shared_experts"));
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(config.integer_or({"first_k_dense_replace"}, 0), f.num_layers);
  name_experts(f.names, kMlp, "gate_proj", "up_proj", "down_proj");
  f.names.correction_bias = cat(kMlp, ".gate.e_score_correction_bias");
  return f;
}

}  // namespace

FamilyLayers describe_deepseek_v3(const ConfigReader& config) {
  return describe_sigmoid_family(config, 2.5);
}
FamilyLayers describe_glm4_moe(const ConfigReader& config) {
  return describe_sigmoid_family(config, 1.0);
}

FamilyLayers describe_dots1(const ConfigReader& config) {
  return describe_sigmoid_family(config, 1.0, false);
}

}  // namespace switchyard
