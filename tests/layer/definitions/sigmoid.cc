// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// Families that score by a sigmoid and choose with a correction bias, as DeepSeek-V3 does.
#include "testing/family_definitions.h"

namespace switchyard::testing {
namespace {

const std::string kMlp = "model.layers.1.mlp";
const std::string kNestedMlp = "model.language_model.layers.1.mlp";

// What DeepSeek-V3's children call their parts; the names of those that say nothing else.
struct Deepseek {
  const char* type;
  double factor = 1;
  bool normalize = true;
  size_t groups = 4, kept = 2;
  json more = {{"first_k_dense_replace", 1}};  // of the config
  bool f32_router = false;
  bool is_fused = false;  // as transformers 5 holds it
  bool is_nested = false;
};

Definition deepseek_like(const Deepseek& o) {
  Definition d;
  d.name = std::string(o.type) + (o.is_fused ? " tf5" : "");
  d.module = o.is_nested ? kNestedMlp : kMlp;
  const std::string text = std::string(o.type) + (o.is_nested ? "_text" : "");
  d.config = base_config(text.c_str(), "n_routed_experts");
  d.config.update({{"n_group", o.groups},
                   {"topk_group", o.kept},
                   {"routed_scaling_factor", o.factor},
                   {"n_shared_experts", 1},
                   {"intermediate_size", 8 * kInner},
                   {"norm_topk_prob", o.normalize}});
  d.config.update(o.more);
  if (o.is_nested) d.config = nested(o.type, d.config);
  router(d, d.module + ".gate.weight", {.f32 = o.f32_router});
  const std::string experts = d.module + ".experts";
  routed_experts(d, o.is_fused ? fused(experts) : separate(experts));
  shared_mlp(d, d.module + ".shared_experts", kInner);
  const std::string bias = d.module + ".gate.e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(
      bias, {.groups = o.groups, .kept = o.kept, .normalize = o.normalize, .factor = o.factor});
  return d;
}

std::vector<Definition> deepseek_children() {
  const json types = {{"mlp_layer_types", {"dense", "sparse", "sparse"}}};
  const json noaux = {{"first_k_dense_replace", 1}, {"topk_method", "noaux_tc"}};
  json v32 = noaux, glm5 = noaux;
  v32["scoring_func"] = "sigmoid";
  glm5.update(
      {{"scoring_func", "sigmoid"}, {"moe_layer_freq", 1}, {"moe_router_dtype", "float32"}});
  return {
      deepseek_like({"deepseek_v3", 2.5}),
      deepseek_like({"kimi_k2", 2.827}),
      deepseek_like({"glm4_moe", 1.0}),
      deepseek_like({"dots1", 1.5, false}),
      deepseek_like({.type = "deepseek_v3", .factor = 2.5, .is_fused = true}),
      deepseek_like({.type = "deepseek_v32", .factor = 2.5, .more = v32}),
      deepseek_like({.type = "deepseek_v32", .factor = 2.5, .more = types, .is_fused = true}),
      deepseek_like({.type = "glm_moe_dsa", .factor = 2.5, .groups = 1, .kept = 1, .more = glm5}),
      deepseek_like({.type = "glm_moe_dsa",
                     .factor = 2.5,
                     .groups = 1,
                     .kept = 1,
                     .more = types,
                     .is_fused = true}),
      deepseek_like(
          {.type = "glm4_moe_lite", .factor = 1.8, .groups = 1, .kept = 1, .more = noaux}),
      deepseek_like({.type = "glm4_moe_lite",
                     .factor = 1.8,
                     .groups = 1,
                     .kept = 1,
                     .more = types,
                     .is_fused = true}),
      deepseek_like({.type = "glm4v_moe", .factor = 1.3, .is_nested = true}),
      deepseek_like({.type = "glm4v_moe", .factor = 1.3, .is_fused = true, .is_nested = true}),
      // Every layer is one of experts.
      deepseek_like({.type = "solar_open",
                     .factor = 1.7,
                     .groups = 1,
                     .kept = 1,
                     .more = {{"first_k_dense_replace", 0}}}),
      deepseek_like({.type = "solar_open",
                     .factor = 1.7,
                     .more = json::object(),
                     .f32_router = true,
                     .is_fused = true}),
  };
}

// Without shared experts; null means that nothing is scaled.
Definition mimo_v2_flash(bool is_fused) {
  Definition d;
  d.name = is_fused ? "mimo_v2_flash tf5" : "mimo_v2_flash";
  d.config = base_config("mimo_v2_flash", "n_routed_experts");
  d.config.update({{"n_group", 1},
                   {"topk_group", 1},
                   {"intermediate_size", 8 * kInner},
                   {"norm_topk_prob", true}});
  if (is_fused)
    d.config.update(
        {{"routed_scaling_factor", 1.0}, {"mlp_layer_types", {"dense", "sparse", "sparse"}}});
  else
    d.config.update({{"n_shared_experts", nullptr},
                     {"routed_scaling_factor", nullptr},
                     {"scoring_func", "sigmoid"},
                     {"topk_method", "noaux_tc"},
                     {"moe_layer_freq", {0, 1, 1}}});
  router(d, kMlp + ".gate.weight", {.f32 = !is_fused});
  routed_experts(d, is_fused ? fused(kMlp + ".experts") : separate(kMlp + ".experts"));
  const std::string bias = kMlp + ".gate.e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias);
  return d;
}

// Router and bias in fp32, the bias beside the gate.
Definition minimax_m2(bool tf5) {
  const std::string at = tf5 ? kMlp : "model.layers.1.block_sparse_moe";
  Definition d;
  d.name = tf5 ? "minimax_m2 tf5" : "minimax_m2";
  d.config = base_config("minimax_m2", "num_local_experts", "intermediate_size");
  d.config.update({{"scoring_func", "sigmoid"},
                   {"use_routing_bias", true},
                   {"shared_intermediate_size", 0},
                   {"router_jitter_noise", 0.0},
                   {"num_mtp_modules", 3},
                   {"use_mtp", true}});
  router(d, at + ".gate.weight", {.f32 = true});
  routed_experts(d, tf5 ? fused(at + ".experts") : separate(at + ".experts", kW132));
  const std::string bias = at + ".e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.epsilon = 0});
  return d;
}

Definition kimi_linear(bool tf5) {
  const std::string at = tf5 ? kMlp : "model.layers.1.block_sparse_moe";
  Definition d;
  d.name = tf5 ? "kimi_linear tf5" : "kimi_linear";
  d.config = base_config("kimi_linear");
  d.config.erase("num_experts_per_tok");
  d.config.update({{"num_experts_per_token", kTopK},
                   {"num_shared_experts", 2},
                   {"moe_renormalize", true},
                   {"moe_router_activation_func", "sigmoid"},
                   {"routed_scaling_factor", 2.446},
                   {"use_grouped_topk", true},
                   {"num_expert_group", 1},
                   {"topk_group", 1},
                   {"first_k_dense_replace", 1},
                   {"moe_layer_freq", 1},
                   {"intermediate_size", 8 * kInner}});
  router(d, at + ".gate.weight");
  routed_experts(d, tf5 ? fused(at + ".experts") : separate(at + ".experts", kW132));
  shared_mlp(d, at + ".shared_experts", 2 * kInner);
  const std::string bias = at + ".gate.e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.factor = 2.446});
  return d;
}

// Softcapping is published off (0); on, it changes the weights but hardly the choice.
Definition laguna(const char* form, double softcap, bool tf5) {
  Definition d;
  d.name = std::string("laguna") + form;
  d.config = base_config("laguna");
  d.config.update({{"shared_expert_intermediate_size", 96},
                   {"moe_routed_scaling_factor", 2.5},
                   {"moe_router_logit_softcapping", softcap},
                   {"moe_apply_router_weight_on_input", false},
                   {"mlp_layer_types", {"dense", "sparse", "sparse"}},
                   {"mlp_only_layers", json::array({0})},
                   {"decoder_sparse_step", 1},
                   {"norm_topk_prob", true},
                   {"intermediate_size", 8 * kInner}});
  router(d, kMlp + ".gate.weight", {.range = 0.5});
  routed_experts(d, tf5 ? fused(kMlp + ".experts") : separate(kMlp + ".experts"));
  shared_mlp(d, kMlp + (tf5 ? ".shared_experts" : ".shared_expert"), 96);
  const std::string bias = kMlp + (tf5 ? ".gate" : ".experts") + ".e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.epsilon = 0, .factor = 2.5, .softcap = softcap});
  return d;
}

// Hunyuan 3: router and bias in fp32, under names of their own.
Definition hy_v3(bool tf5) {
  Definition d;
  d.name = tf5 ? "hy_v3 tf5" : "hy_v3";
  d.config = base_config("hy_v3");
  d.config.update({{"num_shared_experts", 1},
                   {"router_scaling_factor", 2.826},
                   {"enable_moe_fp32_combine", true},
                   {"intermediate_size", 8 * kInner}});
  if (tf5)
    d.config["mlp_layer_types"] = {"dense", "sparse", "sparse"};
  else
    d.config.update({{"first_k_dense_replace", 1}, {"expert_hidden_dim", kInner}});
  router(d, kMlp + (tf5 ? ".gate.weight" : ".router.gate.weight"), {.f32 = true});
  routed_experts(d, tf5 ? fused(kMlp + ".experts") : separate(kMlp + ".experts"));
  shared_mlp(d, kMlp + (tf5 ? ".shared_experts" : ".shared_mlp"), kInner);
  const std::string bias = kMlp + (tf5 ? ".e_score_correction_bias" : ".expert_bias");
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.factor = 2.826});
  return d;
}

// K-EXAONE: the hub has the bias beside the gate.
Definition exaone_moe(bool tf5) {
  Definition d;
  d.name = tf5 ? "exaone_moe tf5" : "exaone_moe";
  d.config = base_config("exaone_moe");
  d.config.update({{"num_shared_experts", 2},
                   {"n_group", 4},
                   {"topk_group", 2},
                   {"norm_topk_prob", true},
                   {"routed_scaling_factor", 2.5},
                   {"mlp_layer_types", {"dense", "sparse", "sparse"}},
                   {"first_k_dense_replace", 1},
                   {"intermediate_size", 8 * kInner}});
  router(d, kMlp + ".gate.weight");
  routed_experts(d, tf5 ? fused(kMlp + ".experts") : separate(kMlp + ".experts"));
  shared_mlp(d, kMlp + ".shared_experts", 2 * kInner);
  const std::string bias = kMlp + (tf5 ? ".gate" : "") + ".e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.groups = 4, .kept = 2, .factor = 2.5});
  return d;
}

// Trinity.
Definition afmoe(bool is_fused) {
  Definition d;
  d.name = is_fused ? "afmoe tf5" : "afmoe";
  d.config = base_config("afmoe");
  d.config.update({{"num_shared_experts", 2},
                   {"num_dense_layers", 1},
                   {"route_scale", 2.448},
                   {"intermediate_size", 8 * kInner}});
  if (!is_fused)
    d.config.update({{"route_norm", true},
                     {"score_func", "sigmoid"},
                     {"n_group", 1},
                     {"topk_group", 1},
                     {"num_expert_groups", 1},
                     {"num_limited_groups", 1},
                     {"load_balance_coeff", 5e-4},
                     {"use_grouped_mm", true}});
  router(d, kMlp + ".router.gate.weight");
  routed_experts(d, is_fused ? fused(kMlp + ".experts") : separate(kMlp + ".experts"));
  shared_mlp(d, kMlp + ".shared_experts", 2 * kInner);
  tensor_f32(d, kMlp + ".expert_bias", {kExperts}, 0.3);
  d.route = biased_sigmoid(kMlp + ".expert_bias", {.factor = 2.448});
  return d;
}

Definition lfm2_moe(const char* form, bool with_bias, bool normalize, bool is_fused) {
  const std::string at = "model.layers.1.feed_forward";
  Definition d;
  d.name = std::string("lfm2_moe") + form;
  d.module = at;
  d.config = base_config("lfm2_moe");
  d.config.erase("hidden_act");
  d.config.update({{"num_dense_layers", 1},
                   {"use_expert_bias", with_bias},
                   {"norm_topk_prob", normalize},
                   {"routed_scaling_factor", 1.5},
                   {"layer_types", {"conv", "conv", "full_attention"}},
                   {"intermediate_size", 8 * kInner}});
  router(d, at + ".gate.weight");
  routed_experts(d, is_fused ? fused(at + ".experts") : separate(at + ".experts", kW132));
  const std::string bias = at + ".expert_bias";
  if (with_bias) {
    tensor_f32(d, bias, {kExperts}, 0.3);
    d.route = biased_sigmoid(bias, {.normalize = normalize, .epsilon = 1e-6, .factor = 1.5});
    return d;
  }
  d.route = [=](const Tensors&, const Row& logits, int64_t) {
    const Row scores = each(logits, sigmoid);
    const Routed r = gathered(scores, topk(scores, kTopK));
    return scaled(normalize ? normalized(r, 1e-6) : r, 1.5);
  };
  return d;
}

}  // namespace

std::vector<Definition> sigmoid_definitions() {
  std::vector<Definition> all = deepseek_children();
  for (const bool tf5 : {false, true})
    for (const auto make : {mimo_v2_flash, minimax_m2, kimi_linear, hy_v3, exaone_moe, afmoe})
      all.push_back(make(tf5));
  all.push_back(laguna("", 0, false));
  all.push_back(laguna(" softcap", 1.5, false));
  all.push_back(laguna(" tf5", 0, true));
  all.push_back(lfm2_moe("", true, true, false));
  all.push_back(lfm2_moe(" without bias", false, true, false));
  all.push_back(lfm2_moe(" not normalised", true, false, false));
  all.push_back(lfm2_moe(" tf5", true, true, true));
  return all;
}

}  // namespace switchyard::testing
