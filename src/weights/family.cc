// src/weights/family.cc -- the list.
#include "weights/family.h"

#include <array>

#include "weights/family_list.h"

namespace switchyard {
namespace {

constexpr std::array kFamilies = {
    Family{"deepseek_v2", describe_deepseek_v2, "DeepseekV2"},
    Family{"deepseek_v3", describe_deepseek_v3, "DeepseekV3"},
    Family{"dots1", describe_dots1, "Dots1"},
    Family{"ernie4_5_moe", describe_ernie4_5_moe, "Ernie4_5_Moe"},
    Family{"flex_olmo", describe_olmoe, "FlexOlmo"},
    Family{"glm4_moe", describe_glm4_moe, "Glm4Moe"},
    Family{"gpt_oss", describe_gpt_oss, "GptOss"},
    Family{"granitemoe", describe_granitemoe, "GraniteMoe"},
    Family{"hunyuan_v1_moe", describe_hunyuan_v1_moe, "HunYuanMoEV1"},
    Family{"jamba", describe_jamba, "Jamba"},
    Family{"kimi_k2", describe_deepseek_v3, "DeepseekV3"},
    Family{"llama4", describe_llama4, "Llama4"},
    Family{"minimax", describe_mixtral, "MiniMax"},
    Family{"minimax_m2", describe_minimax_m2, "MiniMaxM2"},
    Family{"mixtral", describe_mixtral, "Mixtral"},
    Family{"olmoe", describe_olmoe, "Olmoe"},
    Family{"phimoe", describe_phimoe, "Phimoe"},
    Family{"qwen2_moe", describe_qwen2_moe, "Qwen2Moe"},
    Family{"qwen3_5_moe", describe_qwen3_5_moe, "Qwen3_5Moe"},
    Family{"qwen3_moe", describe_qwen3_moe, "Qwen3Moe"},
    Family{"qwen3_next", describe_qwen3_next, "Qwen3Next"},
    Family{"qwen3_omni_moe", describe_qwen3_omni_moe, "Qwen3OmniMoe"},
    Family{"qwen3_vl_moe", describe_qwen3_vl_moe, "Qwen3VLMoe"},
};

}  // namespace

std::span<const Family> families() {
  return kFamilies;
}

const Family* find_family(std::string_view model_type) {
  constexpr std::string_view kText = "_text";
  if (model_type.ends_with(kText)) model_type.remove_suffix(kText.size());
  for (const auto& family : families())
    if (family.model_type == model_type) return &family;
  return nullptr;
}

}  // namespace switchyard
