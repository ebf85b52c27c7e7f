// src/weights/family.cc -- the list, and what its members share.
#include "weights/family.h"

#include <array>

#include "base/require.h"

namespace switchyard {
namespace {

constexpr std::array kFamilies = {
    Family{"deepseek_v3", describe_deepseek_v3},
    Family{"glm4_moe", describe_glm4_moe},
    Family{"gpt_oss", describe_gpt_oss},
    Family{"mixtral", describe_mixtral},
    Family{"olmoe", describe_olmoe},
    Family{"qwen3_moe", describe_qwen3_moe},
    Family{"qwen3_next", describe_qwen3_next},
};

}  // namespace

std::span<const Family> families() {
  return kFamilies;
}

MoeConfig common_config(const ConfigReader& config) {
  MoeConfig c;
  c.hidden = config.integer({"hidden_size"});
  c.intermediate =
      config.integer({"moe_intermediate_size", "expert_intermediate_size", "intermediate_size"});
  c.num_experts =
      config.integer({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"});
  c.top_k = config.integer(
      {"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k"});
  c.activation = activation_from_name(config.text_or({"hidden_act", "hidden_activation"}, "silu"));
  return c;
}

int64_t num_layers_of(const ConfigReader& config) {
  const int64_t n = config.integer({"num_hidden_layers", "num_layers", "n_layer"});
  // 100,000: a limit far from any model, so that a damaged number allocates nothing.
  SWITCHYARD_REQUIRE(n >= 1 && n <= 100'000, BadFile, "checkpoint: num_hidden_layers=", n,
                     ", need 1 to 100000.");
  return n;
}

std::vector<int64_t> layers_from(int64_t first, int64_t num_layers) {
  std::vector<int64_t> layers;
  for (int64_t layer = first; layer < num_layers; ++layer) layers.push_back(layer);
  return layers;
}

void name_experts(TensorNames& names, const std::string& prefix, const char* gate, const char* up,
                  const char* down) {
  names.router = prefix + ".gate.weight";
  names.expert_gate = cat(prefix, ".experts.{expert}.", gate, ".weight");
  names.expert_up = cat(prefix, ".experts.{expert}.", up, ".weight");
  names.expert_down = cat(prefix, ".experts.{expert}.", down, ".weight");
  names.fused_gate_up = prefix + ".experts.gate_up_proj";
  names.fused_down = prefix + ".experts.down_proj";
}

void name_shared_expert(TensorNames& names, const std::string& prefix) {
  names.shared_gate = prefix + ".gate_proj.weight";
  names.shared_up = prefix + ".up_proj.weight";
  names.shared_down = prefix + ".down_proj.weight";
}

}  // namespace switchyard
