// src/weights/family_softmax.cc -- softmax over all experts, then top-k; no shared expert.
#include "weights/family_list.h"
#include "weights/family_parts.h"

namespace switchyard {
namespace {

constexpr const char* kMlp = "layers.{layer}.mlp";

}  // namespace

// mixtral, minimax: always renormalised; w1 is gate, w3 is up.
FamilyLayers describe_mixtral(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.config.gate.renormalize = true;
  f.forms = {names_of_w_experts("layers.{layer}.block_sparse_moe"), names_of_experts(kMlp)};
  return f;
}

// olmoe, flex_olmo: as it comes.
FamilyLayers describe_olmoe(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.config.gate.renormalize = config.boolean_or({"norm_topk_prob"}, false);
  f.forms = {names_of_experts(kMlp)};
  return f;
}

// Every few layers.
FamilyLayers describe_jamba(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.moe_layers = every_layer_of(config.integer_or({"expert_layer_offset"}, 1),
                                config.integer_or({"expert_layer_period"}, 2), f.num_layers);
  f.module = "model.layers.{layer}.feed_forward";
  TensorNames names = names_of_experts("layers.{layer}.feed_forward");
  names.router = "layers.{layer}.feed_forward.router.weight";
  f.forms = {names};
  return f;
}

}  // namespace switchyard
