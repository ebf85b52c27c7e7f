// src/weights/family_qwen.cc -- qwen2_moe, qwen3_moe, qwen3_next: softmax then top-k; some layers
// may be dense.
#include <algorithm>

#include "base/require.h"
#include "weights/family.h"

namespace switchyard {
namespace {

constexpr const char* kMlp = "model.layers.{layer}.mlp";

std::vector<int64_t> sparse_layers(const ConfigReader& config, int64_t num_layers) {
  const auto dense = config.integers_or_none({"mlp_only_layers"});
  const int64_t step = config.integer_or({"decoder_sparse_step"}, 1);
  SWITCHYARD_REQUIRE(step >= 1, BadFile, "checkpoint: decoder_sparse_step=", step,
                     ", need at least 1.");
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < num_layers; ++layer)
    if ((layer + 1) % step == 0 && std::find(dense.begin(), dense.end(), layer) == dense.end())
      layers.push_back(layer);
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
