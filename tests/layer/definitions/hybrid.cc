// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// Families around DeepSeek-V3's choice that differ inside: limited activations, latent experts,
// experts without a gate.
#include <algorithm>
#include <cmath>

#include "testing/family_definitions.h"

namespace switchyard::testing {
namespace {

const std::string kMlp = "model.layers.1.mlp";
const std::string kNestedMlp = "model.language_model.layers.1.mlp";

// Limits are low so that they matter.
double clipped(double x, double limit) {
  return std::clamp(x, -limit, limit);
}

Act clamp_before_silu(double limit) {
  return [=](double gate, double up) { return silu(std::min(gate, limit)) * clipped(up, limit); };
}

// ---- MiniMax-M3: gpt-oss's activation in matrices of their own

Act clamped_swiglu(double alpha, double limit) {
  return [=](double gate, double up) {
    const double g = std::min(gate, limit);
    return (clipped(up, limit) + 1) * g * sigmoid(alpha * g);
  };
}

Definition minimax_m3(bool tf5) {
  const std::string at = tf5 ? kNestedMlp : "language_model.model.layers.1.block_sparse_moe";
  const double alpha = 1.5, limit = 0.6;
  Definition d;
  d.name = tf5 ? "minimax_m3_vl tf5" : "minimax_m3_vl";
  d.module = kNestedMlp;
  // The text model is published under M2's name.
  json text = base_config(tf5 ? "minimax_m3_vl_text" : "minimax_m2", "num_local_experts",
                          "intermediate_size");
  text.update({{"architectures", {"MiniMaxM3SparseForCausalLM"}},
               {"dense_intermediate_size", 8 * kInner},
               {"shared_intermediate_size", 96},
               {"n_shared_experts", 1},
               {"routed_scaling_factor", 2.0},
               {"swiglu_alpha", alpha},
               {"swiglu_limit", limit},
               {"scoring_func", "sigmoid"},
               {"use_routing_bias", true}});
  if (tf5)
    text["mlp_layer_types"] = {"dense", "sparse", "sparse"};
  else
    text.update({{"hidden_act", "swigluoai"}, {"moe_layer_freq", {0, 1, 1}}});
  d.config = nested("minimax_m3_vl", text);
  d.config["architectures"] = {"MiniMaxM3SparseForConditionalGeneration"};
  router(d, at + ".gate.weight", {.f32 = true});
  const Act act = clamped_swiglu(alpha, limit);
  routed_experts(d, tf5 ? fused(at + ".experts") : separate(at + ".experts", kW132), act);
  const std::string shared = at + ".shared_experts";
  shared_expert(d,
                tf5 ? one_fused(shared + ".gate_up_proj.weight", shared + ".down_proj.weight", 96)
                    : one(shared, 96),
                act);
  const std::string bias = at + (tf5 ? ".gate" : "") + ".e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.epsilon = 0, .factor = 2.0});
  return d;
}

// ---- Step 3.5 and 3.7: limits for each layer, others for the shared expert, 0 for none

Act clamp_after_silu(double limit) {
  if (limit == 0) return silu_gated;
  return [=](double gate, double up) { return std::min(silu(gate), limit) * clipped(up, limit); };
}

// <at>.{gate,up,down}_proj.weight [E, ., .]
Form stacked(const std::string& at) {
  const auto view = [=](const char* name, int64_t e, int64_t step) {
    return View{at + name, e * kInner * kHidden, step, 1};
  };
  return {[=](Maker& m) {
            m.bf16(at + ".gate_proj.weight", {kExperts, kInner, kHidden});
            m.bf16(at + ".up_proj.weight", {kExperts, kInner, kHidden});
            m.bf16(at + ".down_proj.weight", {kExperts, kHidden, kInner});
          },
          [=](int64_t e) {
            return Ffn{view(".gate_proj.weight", e, kHidden), view(".up_proj.weight", e, kHidden),
                       view(".down_proj.weight", e, kInner)};
          }};
}

const std::array<double, 4> kStepLimits = {0, 0, 0.3, 0.5};
const std::array<double, 4> kStepSharedLimits = {0, 0.4, 0, 0.25};

json step_config(bool tf5) {
  json text = {{"model_type", "step3p5"},         {"architectures", {"Step3p5ForCausalLM"}},
               {"hidden_size", kHidden},          {"num_hidden_layers", 4},
               {"intermediate_size", 8 * kInner}, {"moe_intermediate_size", kInner},
               {"share_expert_dim", 96},          {"moe_router_scaling_factor", 3.0},
               {"swiglu_limits", kStepLimits},    {"swiglu_limits_shared", kStepSharedLimits}};
  if (tf5)
    text.update({{"n_routed_experts", kExperts},
                 {"num_experts_per_tok", kTopK},
                 {"hidden_act", "silu"},
                 {"mlp_layer_types", {"dense", "sparse", "sparse", "sparse"}}});
  else
    text.update({{"moe_num_experts", kExperts},
                 {"moe_top_k", kTopK},
                 {"moe_layers_enum", "1,2,3"},
                 {"moe_every_n_layer", 1},
                 {"moe_layer_offset", 0},
                 {"moe_router_activation", "sigmoid"},
                 {"norm_expert_weight", true},
                 {"use_moe", true},
                 {"use_moe_router_bias", true},
                 {"need_fp32_gate", true}});
  return text;
}

Definition step3(int64_t layer, bool flat, bool tf5) {
  const std::string layers = ".layers." + std::to_string(layer);
  Definition d;
  d.layer = layer;
  d.module = "model.language_model" + layers + ".mlp";
  d.name = std::string(flat ? "step3p5" : "step3p7") + " layer " + std::to_string(layer) +
           (tf5 ? " tf5" : "");
  d.config = flat ? step_config(tf5) : nested("step3p7", step_config(tf5));
  const std::string at = tf5 ? d.module : "model" + layers + ".moe";
  router(d, at + ".gate.weight");
  const auto l = static_cast<size_t>(layer);
  routed_experts(d, tf5 ? fused(at + ".experts") : stacked(at),
                 clamp_after_silu(kStepLimits.at(l)));
  shared_mlp(d, tf5 ? at + ".shared_experts" : "model" + layers + ".share_expert", 96,
             clamp_after_silu(kStepSharedLimits.at(l)));
  const std::string bias = at + (tf5 ? ".gate.e_score_correction_bias" : ".router_bias");
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.epsilon = 0, .factor = 3.0});
  return d;
}

// ---- Hunyuan 4 limits the routed experts, GLM-5-Next the shared one, too

json limited_config(const char* type) {
  json config = base_config(type, "n_routed_experts");
  config.update({{"n_shared_experts", 1},
                 {"n_group", 1},
                 {"topk_group", 1},
                 {"norm_topk_prob", true},
                 {"routed_scaling_factor", 2.827},
                 {"swiglu_limit", 0.6},
                 {"mlp_layer_types", {"dense", "sparse", "sparse"}},
                 {"intermediate_size", 8 * kInner}});
  return config;
}

void limited(Definition& d, const Form& form, const Act& shared, bool f32_router) {
  router(d, d.module + ".gate.weight", {.f32 = f32_router});
  routed_experts(d, form, clamp_before_silu(0.6));
  shared_mlp(d, d.module + ".shared_experts", kInner, shared);
  const std::string bias = d.module + ".gate.e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.factor = 2.827});
}

Definition hy_v4() {
  Definition d;
  d.name = "hy_v4";
  d.config = limited_config("hy_v4");
  limited(d, fused(kMlp + ".experts"), silu_gated, true);
  return d;
}

Definition glm5_next(bool is_fused) {
  Definition d;
  d.name = is_fused ? "glm5_next tf5" : "glm5_next";
  d.module = kNestedMlp;
  d.config = nested("glm5_next", limited_config("glm5_next_text"));
  const std::string experts = kNestedMlp + ".experts";
  limited(d, is_fused ? fused(experts) : separate(experts), clamp_before_silu(0.6), false);
  return d;
}

// ---- Nemotron-H: squared ReLU, no gate; the large ones have latent experts

double relu2(double, double up) {
  return up > 0 ? up * up : 0;
}

Act plain_relu2() {
  return relu2;
}

// Rows of the experts are down(x); their sum goes back through up.
void latent(Definition& d, const std::string& down, const std::string& up, int64_t width) {
  tensor_bf16(d, down, {width, kHidden});
  tensor_bf16(d, up, {kHidden, width});
  d.before = [=](const Tensors& t, const Row& x) { return product(t, {down}, x, width); };
  d.after = [=](const Tensors& t, const Row& y) {
    return product(t, {up, 0, width, 1}, y, kHidden);
  };
}

Definition nemotron_h(int64_t width, bool tf5) {
  const std::string at = std::string(tf5 ? "model" : "backbone") + ".layers.1.mixer";
  Definition d;
  d.name = std::string("nemotron_h") + (width != kHidden ? " latent" : "") + (tf5 ? " tf5" : "");
  d.module = "model.layers.1.mixer";
  d.config = base_config("nemotron_h", "n_routed_experts");
  d.config.erase("hidden_act");
  d.config.update({{"mlp_hidden_act", "relu2"},
                   {"n_shared_experts", 1},
                   {"moe_shared_expert_intermediate_size", 96},
                   {"intermediate_size", 96},
                   {"n_group", 1},
                   {"topk_group", 1},
                   {"norm_topk_prob", true},
                   {"routed_scaling_factor", 2.5},
                   {"mlp_bias", false},
                   {"layer_norm_epsilon", 1e-5}});
  if (tf5)
    d.config["layers_block_type"] = {"linear_attention", "moe", "full_attention"};
  else
    d.config["hybrid_override_pattern"] = "ME*";
  if (width != kHidden)
    d.config["moe_latent_size"] = width;
  else if (tf5)
    d.config["moe_latent_size"] = nullptr;
  router(d, at + ".gate.weight");
  const Size size{.inner = 80, .width = width};
  d.config["moe_intermediate_size"] = size.inner;
  routed_experts(d, tf5 ? ungated_fused(at + ".experts", size) : ungated(at + ".experts", size),
                 plain_relu2());
  shared_expert(d, ungated_one(at + ".shared_experts", 96), plain_relu2());
  if (width != kHidden)
    latent(d, at + ".fc1_latent_proj.weight", at + ".fc2_latent_proj.weight", width);
  const std::string bias = at + ".gate.e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.factor = 2.5});
  return d;
}

// ---- Kimi-K3: latent experts with a norm before the way back; SiTU

Act situ(double beta, double linear_beta) {
  return [=](double gate, double up) {
    return beta * std::tanh(gate / beta) * sigmoid(gate) * linear_beta *
           std::tanh(up / linear_beta);
  };
}

Definition kimi_k3() {
  const std::string at = "language_model.model.layers.1.block_sparse_moe";
  constexpr int64_t kLatent = 72;
  const double beta = 0.8, linear_beta = 1.1, epsilon = 1e-2;  // so that each of them matters
  Definition d;
  d.name = "kimi_k3";
  d.module = at;
  json text = base_config("kimi_linear");
  text.erase("num_experts_per_tok");
  text.update({{"architectures", {"KimiLinearForCausalLM"}},
               {"hidden_act", "situ"},
               {"activation_situ_beta", beta},
               {"activation_situ_linear_beta", linear_beta},
               {"num_experts_per_token", kTopK},
               {"num_shared_experts", 2},
               {"routed_expert_hidden_size", kLatent},
               {"latent_moe_use_norm", true},
               {"moe_renormalize", true},
               {"moe_router_activation_func", "sigmoid"},
               {"topk_method", "noaux_tc"},
               {"routed_scaling_factor", 0.25},
               {"use_grouped_topk", true},
               {"num_expert_group", 1},
               {"topk_group", 1},
               {"first_k_dense_replace", 1},
               {"moe_layer_freq", 1},
               {"intermediate_size", 8 * kInner},
               {"rms_norm_eps", epsilon}});
  d.config = nested("kimi_k3", text);
  d.config["architectures"] = {"KimiK3ForConditionalGeneration"};
  router(d, at + ".gate.weight");
  const Act act = situ(beta, linear_beta);
  routed_experts(d, separate(at + ".experts", kW132, {.width = kLatent}), act);
  shared_mlp(d, at + ".shared_experts", 2 * kInner, act);
  latent(d, at + ".routed_expert_down_proj.weight", at + ".routed_expert_up_proj.weight", kLatent);
  const std::string norm = at + ".routed_expert_norm.weight";
  tensor_bf16(d, norm, {kLatent}, 0.5, 1.0);
  d.after = [=, back = d.after](const Tensors& t, const Row& y) {
    return back(t, times(rms_normalized(y, epsilon), t.at(norm).values));
  };
  const std::string bias = at + ".gate.e_score_correction_bias";
  tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = biased_sigmoid(bias, {.factor = 0.25});
  return d;
}

}  // namespace

std::vector<Definition> hybrid_definitions() {
  std::vector<Definition> all = {minimax_m3(false), minimax_m3(true), hy_v4(),
                                 glm5_next(false),  glm5_next(true),  kimi_k3()};
  for (const int64_t layer : {1, 2, 3}) {
    all.push_back(step3(layer, false, false));
    all.push_back(step3(layer, true, false));
  }
  all.push_back(step3(3, false, true));
  for (const int64_t width : {kHidden, int64_t{72}})
    for (const bool tf5 : {false, true}) all.push_back(nemotron_h(width, tf5));
  return all;
}

}  // namespace switchyard::testing
