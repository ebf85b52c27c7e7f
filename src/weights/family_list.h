// src/weights/family_list.h -- one function per family or per group that shares a block; one file
// per scheme.
#pragma once

#include "weights/family.h"

namespace switchyard {

// family_deepseek_v4.cc
FamilyLayers describe_deepseek_v4(const ConfigReader& config);

// family_gemma4.cc
FamilyLayers describe_gemma4(const ConfigReader& config);

// family_hunyuan.cc
FamilyLayers describe_hunyuan_v1_moe(const ConfigReader& config);

// family_inkling.cc
FamilyLayers describe_inkling(const ConfigReader& config);

// family_nemotron_h.cc
FamilyLayers describe_nemotron_h(const ConfigReader& config);

// family_others.cc
FamilyLayers describe_phimoe(const ConfigReader& config);
FamilyLayers describe_llama4(const ConfigReader& config);

// family_qwen.cc
FamilyLayers describe_qwen2_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_next(const ConfigReader& config);
FamilyLayers describe_qwen4_exp(const ConfigReader& config);
FamilyLayers describe_qwen3_5_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_vl_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_omni_moe(const ConfigReader& config);

// family_sigmoid.cc
FamilyLayers describe_deepseek_v3(const ConfigReader& config);
FamilyLayers describe_glm4_moe(const ConfigReader& config);
FamilyLayers describe_glm4_moe_lite(const ConfigReader& config);
FamilyLayers describe_glm_moe_dsa(const ConfigReader& config);
FamilyLayers describe_dots1(const ConfigReader& config);
FamilyLayers describe_solar_open(const ConfigReader& config);
FamilyLayers describe_mimo_v2_flash(const ConfigReader& config);
FamilyLayers describe_hy_v4(const ConfigReader& config);
FamilyLayers describe_glm5_next(const ConfigReader& config);
FamilyLayers describe_exaone_moe(const ConfigReader& config);
FamilyLayers describe_kimi_linear(const ConfigReader& config);
FamilyLayers describe_kimi_k3(const ConfigReader& config);
FamilyLayers describe_minimax_m2(const ConfigReader& config);
FamilyLayers describe_minimax_m3(const ConfigReader& config);
FamilyLayers describe_laguna(const ConfigReader& config);
FamilyLayers describe_hy_v3(const ConfigReader& config);
FamilyLayers describe_afmoe(const ConfigReader& config);
FamilyLayers describe_lfm2_moe(const ConfigReader& config);

// family_softmax.cc
FamilyLayers describe_mixtral(const ConfigReader& config);
FamilyLayers describe_olmoe(const ConfigReader& config);
FamilyLayers describe_jamba(const ConfigReader& config);
FamilyLayers describe_dbrx(const ConfigReader& config);

// family_softmax_bias.cc
FamilyLayers describe_ernie4_5_moe(const ConfigReader& config);
FamilyLayers describe_ernie4_5_vl_moe(const ConfigReader& config);
FamilyLayers describe_longcat_flash(const ConfigReader& config);

// family_softmax_groups.cc
FamilyLayers describe_deepseek_v2(const ConfigReader& config);
FamilyLayers describe_mistral4(const ConfigReader& config);

// family_step.cc
FamilyLayers describe_step(const ConfigReader& config);

// family_top_k_softmax.cc
FamilyLayers describe_gpt_oss(const ConfigReader& config);
FamilyLayers describe_granitemoe(const ConfigReader& config);
FamilyLayers describe_granitemoeshared(const ConfigReader& config);
FamilyLayers describe_granitemoehybrid(const ConfigReader& config);
FamilyLayers describe_cohere2_moe(const ConfigReader& config);

}  // namespace switchyard
