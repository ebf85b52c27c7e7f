// src/weights/family.cc -- the list.
#include "weights/family.h"

#include <array>

#include "weights/family_parts.h"

namespace switchyard {
namespace {

constexpr std::array kFamilies = {
    Family{"afmoe", describe_afmoe, "Afmoe"},
    Family{"cohere2_moe", describe_cohere2_moe, "Cohere2Moe"},
    Family{"dbrx", describe_dbrx, "Dbrx"},
    Family{"deepseek_v2", describe_deepseek_v2, "DeepseekV2"},
    Family{"deepseek_v3", describe_deepseek_v3, "DeepseekV3"},
    Family{"deepseek_v32", describe_deepseek_v3, "DeepseekV32"},
    Family{"deepseek_v4", describe_deepseek_v4, "DeepseekV4"},
    Family{"dots1", describe_dots1, "Dots1"},
    Family{"ernie4_5_moe", describe_ernie4_5_moe, "Ernie4_5_Moe"},
    Family{"ernie4_5_moe_vl", describe_ernie4_5_vl_moe, "Ernie4_5_VLMoe"},
    Family{"ernie4_5_vl_moe", describe_ernie4_5_vl_moe, "Ernie4_5_VLMoe"},
    Family{"exaone_moe", describe_exaone_moe, "ExaoneMoe"},
    Family{"flex_olmo", describe_olmoe, "FlexOlmo"},
    Family{"gemma4", describe_gemma4, "Gemma4"},
    Family{"glm4_moe", describe_glm4_moe, "Glm4Moe"},
    Family{"glm4_moe_lite", describe_glm4_moe_lite, "Glm4MoeLite"},
    Family{"glm4v_moe", describe_glm4_moe, "Glm4vMoe"},
    Family{"glm5_next", describe_glm5_next, "Glm5Next"},
    Family{"glm_moe_dsa", describe_glm_moe_dsa, "GlmMoeDsa"},
    Family{"gpt_oss", describe_gpt_oss, "GptOss"},
    Family{"granitemoe", describe_granitemoe, "GraniteMoe"},
    Family{"granitemoehybrid", describe_granitemoehybrid, "GraniteMoeHybrid"},
    Family{"granitemoeshared", describe_granitemoeshared, "GraniteMoeShared"},
    Family{"hunyuan_v1_moe", describe_hunyuan_v1_moe, "HunYuanMoEV1"},
    Family{"hy_v3", describe_hy_v3, "HYV3"},
    Family{"hy_v4", describe_hy_v4, "HYV4"},
    Family{"inkling", describe_inkling, "Inkling"},
    Family{"inkling_mm_model", describe_inkling, "Inkling"},
    Family{"jamba", describe_jamba, "Jamba"},
    Family{"kimi_k2", describe_deepseek_v3, "DeepseekV3"},
    Family{"kimi_k3", describe_kimi_k3, "KimiK3 KimiLinear"},
    Family{"kimi_linear", describe_kimi_linear, "KimiLinear"},
    Family{"laguna", describe_laguna, "Laguna"},
    Family{"lfm2_moe", describe_lfm2_moe, "Lfm2Moe"},
    Family{"llama4", describe_llama4, "Llama4"},
    Family{"longcat_flash", describe_longcat_flash, "LongcatFlash"},
    Family{"mimo_v2_flash", describe_mimo_v2_flash, "MiMoV2Flash"},
    Family{"minimax", describe_mixtral, "MiniMax"},
    Family{"minimax_m2", describe_minimax_m2, "MiniMaxM2"},
    Family{"minimax_m3", describe_minimax_m3, "MiniMaxM3Sparse"},
    Family{"minimax_m3_vl", describe_minimax_m3, "MiniMaxM3Sparse"},
    Family{"mistral4", describe_mistral4, "Mistral4"},
    Family{"mixtral", describe_mixtral, "Mixtral"},
    Family{"nemotron_h", describe_nemotron_h, "NemotronH"},
    Family{"olmoe", describe_olmoe, "Olmoe"},
    Family{"phimoe", describe_phimoe, "Phimoe"},
    Family{"qwen2_moe", describe_qwen2_moe, "Qwen2Moe"},
    Family{"qwen3_5_moe", describe_qwen3_5_moe, "Qwen3_5Moe"},
    Family{"qwen3_moe", describe_qwen3_moe, "Qwen3Moe"},
    Family{"qwen3_next", describe_qwen3_next, "Qwen3Next"},
    Family{"qwen3_omni_moe", describe_qwen3_omni_moe, "Qwen3OmniMoe Qwen3Moe"},
    Family{"qwen3_omni_moe_thinker", describe_qwen3_omni_moe, "Qwen3OmniMoe Qwen3Moe"},
    Family{"qwen3_vl_moe", describe_qwen3_vl_moe, "Qwen3VLMoe Qwen3Moe"},
    Family{"qwen4_exp", describe_qwen3_next, "Qwen4Exp"},
    Family{"solar_open", describe_solar_open, "SolarOpen"},
    Family{"step3p5", describe_step, "Step3p5"},
    Family{"step3p7", describe_step, "Step3p7 Step3p5"},
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
