// src/weights/family_list.h -- one function per family or per group that shares a block; one file
// per scheme.
#pragma once

#include "weights/family.h"

namespace switchyard {

// family_deepseek_v4.cc
Describe describe_deepseek_v4;

// family_gemma4.cc
Describe describe_gemma4;

// family_hunyuan.cc
Describe describe_hunyuan_v1_moe;

// family_inkling.cc
Describe describe_inkling;

// family_nemotron_h.cc
Describe describe_nemotron_h;

// family_others.cc
Describe describe_phimoe, describe_llama4;

// family_qwen.cc
Describe describe_qwen2_moe, describe_qwen3_moe, describe_qwen3_next, describe_qwen3_5_moe,
    describe_qwen3_vl_moe, describe_qwen3_omni_moe;

// family_sigmoid.cc
Describe describe_deepseek_v3, describe_glm4_moe, describe_glm4_moe_lite, describe_glm_moe_dsa,
    describe_dots1, describe_solar_open, describe_mimo_v2_flash, describe_hy_v4, describe_glm5_next,
    describe_exaone_moe, describe_kimi_linear, describe_kimi_k3, describe_minimax_m2,
    describe_minimax_m3, describe_laguna, describe_hy_v3, describe_afmoe, describe_lfm2_moe;

// family_softmax.cc
Describe describe_mixtral, describe_olmoe, describe_jamba, describe_dbrx;

// family_softmax_bias.cc
Describe describe_ernie4_5_moe, describe_ernie4_5_vl_moe, describe_longcat_flash;

// family_softmax_groups.cc
Describe describe_deepseek_v2, describe_mistral4;

// family_step.cc
Describe describe_step;

// family_top_k_softmax.cc
Describe describe_gpt_oss, describe_granitemoe, describe_granitemoeshared,
    describe_granitemoehybrid, describe_cohere2_moe;

}  // namespace switchyard
