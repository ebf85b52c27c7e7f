// src/weights/family.cc -- the list, and what its members share.
#include "weights/family.h"

#include <algorithm>
#include <array>

#include "base/checked.h"

namespace switchyard {
namespace {

constexpr std::array kFamilies = {
    Family{"deepseek_v2", describe_deepseek_v2},
    Family{"deepseek_v3", describe_deepseek_v3},
    Family{"dots1", describe_dots1},
    Family{"ernie4_5_moe", describe_ernie4_5_moe},
    Family{"flex_olmo", describe_olmoe},
    Family{"glm4_moe", describe_glm4_moe},
    Family{"gpt_oss", describe_gpt_oss},
    Family{"granitemoe", describe_granitemoe},
    Family{"hunyuan_v1_moe", describe_hunyuan_v1_moe},
    Family{"jamba", describe_jamba},
    Family{"kimi_k2", describe_deepseek_v3},
    Family{"llama4", describe_llama4},
    Family{"minimax", describe_mixtral},
    Family{"mixtral", describe_mixtral},
    Family{"olmoe", describe_olmoe},
    Family{"phimoe", describe_phimoe},
    Family{"qwen2_moe", describe_qwen2_moe},
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
  return every_layer_of(std::max<int64_t>(0, first), 1, num_layers);
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

void add_shared_experts(FamilyLayers& family, int64_t number, const std::string& prefix) {
  SWITCHYARD_REQUIRE(number >= 0, BadFile, "checkpoint: shared experts=", number,
                     ", must not be negative.");
  SWITCHYARD_REQUIRE(family.config.intermediate >= 0, BadFile,
                     "checkpoint: moe_intermediate_size=", family.config.intermediate,
                     ", must be positive.");
  family.config.shared.intermediate =
      checked_mul(number, family.config.intermediate, "checkpoint: shared experts");
  name_shared_expert(family.names, prefix);
}

std::vector<int64_t> every_layer_of(int64_t first, int64_t step, int64_t num_layers) {
  SWITCHYARD_REQUIRE(first >= 0 && step >= 1, BadFile, "checkpoint: MoE layers from ", first,
                     " in steps of ", step,
                     ", need a first of at least 0 and a step of at least 1.");
  std::vector<int64_t> layers;
  const int64_t stride = std::min(step, num_layers);  // so that no sum overflows
  for (int64_t layer = first; layer < num_layers; layer += stride) layers.push_back(layer);
  return layers;
}

std::vector<int64_t> every_nth_layer(int64_t step, int64_t num_layers) {
  SWITCHYARD_REQUIRE(step >= 1, BadFile, "checkpoint: MoE layers in steps of ", step,
                     ", need at least 1.");
  return every_layer_of(step - 1, step, num_layers);
}

}  // namespace switchyard
