// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/family_configs.h -- the least that a config.json of each family says.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace switchyard::testing {

inline constexpr int64_t kFamilyHidden = 16, kFamilyInner = 8, kFamilyExperts = 4,
                         kFamilyLayers = 4;

// hidden_size, moe_intermediate_size, num_hidden_layers, and experts and top-k under these keys.
inline nlohmann::json family_sizes(const char* experts, const char* top_k) {
  return {{"hidden_size", kFamilyHidden},
          {"moe_intermediate_size", kFamilyInner},
          {"num_hidden_layers", kFamilyLayers},
          {experts, kFamilyExperts},
          {top_k, 2}};
}

inline nlohmann::json with(nlohmann::json config, const nlohmann::json& more) {
  config.update(more);
  return config;
}

// By model_type; without model_type in it.
inline std::map<std::string, nlohmann::json> family_configs() {
  using nlohmann::json;
  const json experts = family_sizes("num_experts", "num_experts_per_tok");
  const json local = family_sizes("num_local_experts", "num_experts_per_tok");
  const json routed = family_sizes("n_routed_experts", "num_experts_per_tok");
  const json no_groups = {{"n_group", 1}, {"topk_group", 1}};
  const json shared_width = {{"shared_expert_intermediate_size", kFamilyInner}};
  const json ernie = family_sizes("moe_num_experts", "moe_k");
  const json vl = with(ernie, {{"moe_num_experts", {kFamilyExperts, kFamilyExperts}},
                               {"moe_intermediate_size", {kFamilyInner, kFamilyInner}}});
  const json kimi = family_sizes("num_experts", "num_experts_per_token");
  const json step = with(family_sizes("moe_num_experts", "moe_top_k"),
                         {{"share_expert_dim", kFamilyInner}, {"moe_layers_enum", "1,3"}});
  const json minimax_m3 = with(local, {{"shared_intermediate_size", kFamilyInner}});
  const json nemotron = {{"hybrid_override_pattern", "ME*E"},
                         {"moe_shared_expert_intermediate_size", kFamilyInner}};
  const json longcat = {{"hidden_size", kFamilyHidden},
                        {"expert_ffn_hidden_size", kFamilyInner},
                        {"num_layers", kFamilyLayers},
                        {"n_routed_experts", kFamilyExperts},
                        {"moe_topk", 2},
                        {"zero_expert_num", 2}};
  const json dbrx = {
      {"d_model", kFamilyHidden},
      {"n_layers", kFamilyLayers},
      {"ffn_config",
       {{"ffn_hidden_size", kFamilyInner}, {"moe_num_experts", kFamilyExperts}, {"moe_top_k", 2}}}};
  return {
      {"afmoe", experts},
      {"cohere2_moe", experts},
      {"dbrx", dbrx},
      {"deepseek_v2", routed},
      {"deepseek_v3", with(routed, no_groups)},
      {"deepseek_v32", with(routed, no_groups)},
      {"deepseek_v4", with(routed, {{"vocab_size", 32}, {"num_hash_layers", 1}})},
      {"dots1", routed},
      {"ernie4_5_moe", ernie},
      {"ernie4_5_moe_vl", vl},
      {"ernie4_5_vl_moe", vl},
      {"exaone_moe", experts},
      {"flex_olmo", experts},
      {"gemma4", with(family_sizes("num_experts", "top_k_experts"), {{"enable_moe_block", true}})},
      {"glm4_moe", routed},
      {"glm4_moe_lite", routed},
      {"glm4v_moe", routed},
      {"glm5_next", routed},
      {"glm_moe_dsa", routed},
      {"gpt_oss", local},
      {"granitemoe", local},
      {"granitemoehybrid", with(local, {{"shared_intermediate_size", kFamilyInner}})},
      {"granitemoeshared", with(local, {{"shared_intermediate_size", kFamilyInner}})},
      {"hunyuan_v1_moe", family_sizes("num_experts", "moe_topk")},
      {"hy_v3", experts},
      {"hy_v4", routed},
      {"inkling", routed},
      {"inkling_mm_model", routed},
      {"jamba", experts},
      {"kimi_k2", with(routed, no_groups)},
      {"kimi_k3", with(kimi, {{"hidden_act", "situ"},
                              {"routed_expert_hidden_size", 8},
                              {"latent_moe_use_norm", true}})},
      {"kimi_linear", kimi},
      {"laguna", with(experts, shared_width)},
      {"lfm2_moe", experts},
      {"llama4", with(local, {{"num_experts_per_tok", 1}})},
      {"longcat_flash", longcat},
      {"mimo_v2_flash", routed},
      {"minimax", local},
      {"minimax_m2", local},
      {"minimax_m3", minimax_m3},
      {"minimax_m3_vl", minimax_m3},
      {"mistral4", routed},
      {"mixtral", local},
      {"nemotron_h", with(routed, nemotron)},
      {"olmoe", experts},
      {"phimoe", local},
      {"qwen2_moe", with(experts, shared_width)},
      {"qwen3_5_moe", with(experts, shared_width)},
      {"qwen3_moe", experts},
      {"qwen3_next", with(experts, shared_width)},
      {"qwen3_omni_moe", experts},
      {"qwen3_omni_moe_thinker", experts},
      {"qwen3_vl_moe", experts},
      {"qwen4_exp", with(experts, shared_width)},
      {"solar_open", routed},
      {"step3p5", step},
      {"step3p7", step},
  };
}

}  // namespace switchyard::testing
