// src/weights/family_qwen.cc -- softmax then top-k, some layers may be dense; some families have a
// shared expert with a sigmoid gate.
#include <algorithm>

#include "weights/family_parts.h"

namespace switchyard {
namespace {

std::vector<int64_t> layers_without_dense_ones(const ConfigReader& config, int64_t num_layers) {
  auto dense = config.integers_or_none({"mlp_only_layers"});
  std::sort(dense.begin(), dense.end());
  auto layers = every_nth_layer(config.integer_or({"decoder_sparse_step"}, 1), num_layers);
  std::erase_if(
      layers, [&](int64_t layer) { return std::binary_search(dense.begin(), dense.end(), layer); });
  return layers;
}

FamilyLayers describe_qwen(const ConfigReader& config, bool renormalize_by_default) {
  FamilyLayers f = common_layers(config);
  f.config.gate.renormalize = config.boolean_or({"norm_topk_prob"}, renormalize_by_default);
  f.moe_layers = layers_without_dense_ones(config, f.num_layers);
  f.forms = {names_of_experts(kMlp)};
  return f;
}

FamilyLayers with_gated_shared_expert(FamilyLayers f, const ConfigReader& config) {
  const int64_t width = config.integer_or({"shared_expert_intermediate_size"}, 0, 0);
  f.config.shared = {.intermediate = width, .sigmoid_gated = width > 0};
  for (TensorNames& names : f.forms) {
    name_shared_expert(names, cat(kMlp, ".shared_expert"));
    names.shared_expert_gate = cat(kMlp, ".shared_expert_gate.weight");
  }
  return f;
}

}  // namespace

FamilyLayers describe_qwen2_moe(const ConfigReader& config) {
  return with_gated_shared_expert(describe_qwen(config, false), config);
}

// A text model taken out of Qwen3-VL has its transposed experts.
FamilyLayers describe_qwen3_moe(const ConfigReader& config) {
  FamilyLayers f = describe_qwen(config, false);
  f.forms.front().fused = Fused::Either;
  return f;
}

FamilyLayers describe_qwen3_next(const ConfigReader& config) {
  return with_gated_shared_expert(describe_qwen(config, true), config);
}

// Always renormalised: absent norm_topk_prob says nothing else.
FamilyLayers describe_qwen3_5_moe(const ConfigReader& config) {
  FamilyLayers f = with_gated_shared_expert(describe_qwen(config, true), config);
  f.config.gate.renormalize = true;
  return f;
}

// The hub has [E, H, 2I] where transformers 5 has [E, 2I, H], under the same names.
FamilyLayers describe_qwen3_vl_moe(const ConfigReader& config) {
  FamilyLayers f = describe_qwen(config, true);
  f.config.gate.renormalize = true;
  f.forms.front().fused = Fused::Either;
  return f;
}

// The thinker; the talker is another model.
FamilyLayers describe_qwen3_omni_moe(const ConfigReader& config) {
  FamilyLayers f = describe_qwen(config, true);
  f.nested_module = "thinker.model.language_model.layers.{layer}.mlp";
  return f;
}

}  // namespace switchyard
