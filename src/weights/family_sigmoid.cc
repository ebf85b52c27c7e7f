// src/weights/family_sigmoid.cc -- sigmoid scores, a correction bias for the choice, perhaps groups
// by their two best, renormalised and scaled; shared experts; the first layers may be dense.
#include "weights/family_list.h"
#include "weights/family_parts.h"

namespace switchyard {
namespace {

constexpr const char* kMlp = "layers.{layer}.mlp";

// What a family has where its config says nothing.
struct Defaults {
  double scale = 1;
  bool renormalize = true;
  int64_t shared = 1;
  int64_t first_dense = 0;
};

TensorNames names_of_deepseek() {
  TensorNames names = names_of_experts(kMlp);
  name_shared_expert(names, cat(kMlp, ".shared_experts"));
  names.correction_bias = cat(kMlp, ".gate.e_score_correction_bias");
  return names;
}

FamilyLayers describe_sigmoid(const ConfigReader& config, const Defaults& absent) {
  FamilyLayers f = common_layers(config);
  GateConfig& gate = f.config.gate;
  use_sigmoid_gate(gate);
  gate.renormalize = config.boolean_or({"norm_topk_prob"}, absent.renormalize);
  gate.scale = static_cast<float>(config.number_or({"routed_scaling_factor"}, absent.scale, 1.0));
  gate.num_groups = config.integer_or({"n_group"}, 1, 1);
  gate.num_groups_kept = config.integer_or({"topk_group"}, 1, 1);
  add_shared_experts(f.config, num_shared_experts(config, absent.shared));
  f.moe_layers = sparse_layers(config, f.num_layers, absent.first_dense);
  f.forms = {names_of_deepseek()};
  return f;
}

}  // namespace

FamilyLayers describe_deepseek_v3(const ConfigReader& config) {
  return describe_sigmoid(config, {.scale = 2.5});
}

FamilyLayers describe_glm4_moe(const ConfigReader& config) {
  return describe_sigmoid(config, {});
}

FamilyLayers describe_dots1(const ConfigReader& config) {
  return describe_sigmoid(config, {.renormalize = false});
}

// Neither scale nor shared experts; without epsilon.
FamilyLayers describe_minimax_m2(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  use_sigmoid_gate(f.config.gate, 0);
  f.config.gate.correction_bias = config.boolean_or({"use_routing_bias"}, true);
  TensorNames names = names_of_w_experts("layers.{layer}.block_sparse_moe");
  names.correction_bias = "layers.{layer}.block_sparse_moe.e_score_correction_bias";
  TensorNames in_memory = names_of_experts(kMlp);
  in_memory.correction_bias = cat(kMlp, ".e_score_correction_bias");
  f.forms = {names, in_memory};
  return f;
}

}  // namespace switchyard
