// src/weights/family_qwen.cc -- qwen2_moe, qwen3_moe, qwen3_next: softmax then top-k; some layers
// may be dense.
#include <algorithm>

#include "base/require.h"
#include "weights/family.h"

namespace switchyard {
namespace {

constexpr const char* kMlp = "model.layers.{layer}.mlp";

std::vector<int64_t> sparse_layers(const ConfigReader& config, int64_t num_layers) {
  auto dense = config.integers_or_none({"mlp_only_layers"});
  std::sort(dense.begin(), dense.end());
  auto layers = every_nth_layer(config.integer_or({"decoder_sparse_step"}, 1), num_layers);
  std::erase_if(
      layers, [&](int64_t layer) { return std::binary_search(dense.begin(), dense.end(), layer); });
  return layers;
}

FamilyLayers describe_qwen(const ConfigReader& config, bool renormalize_by_default) {
  FamilyLayers f;
  f.config = common_config(config);
  f.config.gate.renormalize = config.boolean_or({"norm_topk_prob"}, renormalize_by_default);
  f.num_layers = num_layers_of(config);
  f.moe_layers = sparse_layers(config, f.num_layers);
  name_experts(f.names, kMlp, "gate_proj", "up_proj", "down_proj");
  return f;
}

FamilyLayers with_gated_shared_expert(FamilyLayers f, const ConfigReader& config) {
  f.config.shared = {config.integer({"shared_expert_intermediate_size"}), true};
  name_shared_expert(f.names, cat(kMlp, ".shared_expert"));
  f.names.shared_expert_gate = cat(kMlp, ".shared_expert_gate.weight");
  return f;
}

}  // namespace

FamilyLayers describe_qwen3_moe(const ConfigReader& config) {
  return describe_qwen(config, false);
}

FamilyLayers describe_qwen2_moe(const ConfigReader& config) {
  return with_gated_shared_expert(describe_qwen(config, false), config);
}

FamilyLayers describe_qwen3_next(const ConfigReader& config) {
  return with_gated_shared_expert(describe_qwen(config, true), config);
}

}  // namespace switchyard
