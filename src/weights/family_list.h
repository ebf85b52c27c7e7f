// src/weights/family_list.h -- one function per family or per group that shares a block; one file
// per scheme.
#pragma once

#include "weights/family.h"

namespace switchyard {

// family_softmax.cc
FamilyLayers describe_jamba(const ConfigReader& config);
FamilyLayers describe_mixtral(const ConfigReader& config);
FamilyLayers describe_olmoe(const ConfigReader& config);

// family_qwen.cc
FamilyLayers describe_qwen2_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_next(const ConfigReader& config);
FamilyLayers describe_qwen3_5_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_omni_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_vl_moe(const ConfigReader& config);

// family_softmax_groups.cc
FamilyLayers describe_deepseek_v2(const ConfigReader& config);

// family_softmax_bias.cc
FamilyLayers describe_ernie4_5_moe(const ConfigReader& config);

// family_top_k_softmax.cc
FamilyLayers describe_gpt_oss(const ConfigReader& config);
FamilyLayers describe_granitemoe(const ConfigReader& config);

// family_hunyuan.cc
FamilyLayers describe_hunyuan_v1_moe(const ConfigReader& config);

// family_sigmoid.cc
FamilyLayers describe_deepseek_v3(const ConfigReader& config);
FamilyLayers describe_dots1(const ConfigReader& config);
FamilyLayers describe_glm4_moe(const ConfigReader& config);
FamilyLayers describe_minimax_m2(const ConfigReader& config);

// family_others.cc
FamilyLayers describe_llama4(const ConfigReader& config);
FamilyLayers describe_phimoe(const ConfigReader& config);

}  // namespace switchyard
