// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// Families that score by a softmax over all experts.
#include <cmath>

#include "testing/family_definitions.h"

namespace switchyard::testing {
namespace {

const std::string kMlp = "model.layers.1.mlp";
const std::string kNestedMlp = "model.language_model.layers.1.mlp";

// ---- Qwen

void gated_shared_expert(Definition& d, const std::string& at) {
  shared_mlp(d, at + ".shared_expert", 2 * kInner);
  const std::string gate = at + ".shared_expert_gate.weight";
  tensor_bf16(d, gate, {1, kHidden});
  d.shared = [=, inner = d.shared](const Tensors& t, const Row& x, const Routed& routed) {
    Row y = inner(t, x, routed);
    const double g = sigmoid(product(t, {gate}, x, 1)[0]);
    for (double& v : y) v *= g;
    return y;
  };
}

Definition qwen_like(const char* type, bool normalize, bool shared, bool is_fused = false) {
  Definition d;
  d.name = std::string(type) + (is_fused ? " fused" : "");
  d.config = base_config(type);
  d.config["norm_topk_prob"] = normalize;
  d.config["intermediate_size"] = 8 * kInner;  // of dense layers
  d.config["decoder_sparse_step"] = 1;
  d.config["mlp_only_layers"] = json::array({0});
  router(d, kMlp + ".gate.weight");
  routed_experts(d, is_fused ? fused(kMlp + ".experts") : separate(kMlp + ".experts"));
  d.route = softmax_top(normalize);
  if (!shared) return d;
  d.config["shared_expert_intermediate_size"] = 2 * kInner;
  gated_shared_expert(d, kMlp);
  return d;
}

// Qwen3.5 and Qwen4: there is no norm_topk_prob, and absent means that weights are normalised.
Definition qwen3_5_like(const char* type, bool text_only) {
  const std::string text_type = std::string(type) + "_text";
  const std::string at = text_only ? kMlp : kNestedMlp;
  Definition d;
  d.name = text_only ? text_type : type;
  d.module = at;
  d.config = base_config(text_type.c_str());
  d.config["shared_expert_intermediate_size"] = 2 * kInner;
  if (!text_only) {
    d.config = nested(type, d.config);
    d.config["vision_config"] = {{"model_type", type}, {"hidden_size", 32}, {"depth", 1}};
  }
  router(d, at + ".gate.weight");
  routed_experts(d, text_only ? separate(at + ".experts") : fused(at + ".experts"));
  gated_shared_expert(d, at);
  d.route = softmax_top(true);
  return d;
}

// On the hub experts are [E, H, 2I] and [E, I, H]; what transformers 5 writes under the same names
// is [E, 2I, H] and [E, H, I]. Where 2I is H, gate_up_proj has one shape in both.
Definition qwen3_vl_moe(const char* form, bool by_hub, int64_t inner) {
  Definition d;
  d.name = std::string("qwen3_vl_moe") + form;
  d.module = kNestedMlp;
  d.config = base_config("qwen3_vl_moe_text");
  d.config.update({{"norm_topk_prob", true},
                   {"moe_intermediate_size", inner},
                   {"intermediate_size", 8 * kInner},
                   {"decoder_sparse_step", 1},
                   {"mlp_only_layers", json::array()}});
  d.config = nested("qwen3_vl_moe", d.config);
  d.config["vision_config"] = {{"model_type", "qwen3_vl_moe"}, {"hidden_size", 32}, {"depth", 1}};
  router(d, d.module + ".gate.weight");
  const std::string experts = d.module + ".experts";
  const Size size{.inner = inner};
  routed_experts(d, by_hub ? transposed(experts, size) : fused(experts, size));
  d.route = softmax_top(true);
  return d;
}

// The thinker; a talker with MoE layers of another size stands beside it.
Definition qwen3_omni_moe(bool is_fused) {
  Definition d;
  d.name = is_fused ? "qwen3_omni_moe tf5" : "qwen3_omni_moe";
  d.module = "thinker.model.language_model.layers.1.mlp";
  const std::string at = is_fused ? d.module : "thinker.model.layers.1.mlp";
  json thinker = base_config("qwen3_omni_moe_text");
  thinker.update({{"norm_topk_prob", true},
                  {"intermediate_size", 8 * kInner},
                  {"decoder_sparse_step", 1},
                  {"mlp_only_layers", json::array()}});
  json talker = base_config("qwen3_omni_moe_talker_text");
  talker.update({{"num_experts", 4},
                 {"num_experts_per_tok", 2},
                 {"moe_intermediate_size", 32},
                 {"shared_expert_intermediate_size", 32},
                 {"norm_topk_prob", true}});
  d.config = {{"architectures", {"Qwen3OmniMoeForConditionalGeneration"}},
              {"model_type", "qwen3_omni_moe"},
              {"thinker_config", nested("qwen3_omni_moe_thinker", thinker)},
              {"talker_config", nested("qwen3_omni_moe_talker", talker)}};
  router(d, at + ".gate.weight");
  routed_experts(d, is_fused ? fused(at + ".experts") : separate(at + ".experts"));
  const std::string other = "talker.model.layers.1.mlp";
  d.tensors.push_back(separate(other + ".experts", kProj, {.inner = 32, .number = 4}).make);
  d.tensors.push_back(one(other + ".shared_expert", 32).make);
  tensor_bf16(d, other + ".gate.weight", {4, kHidden});
  tensor_bf16(d, other + ".shared_expert_gate.weight", {1, kHidden});
  d.route = softmax_top(true);
  return d;
}

// ---- OLMoE, Mixtral, Jamba

Definition olmo_like(const char* type) {
  Definition d;
  d.name = type;
  d.config = base_config(type, "num_experts", "intermediate_size");
  router(d, kMlp + ".gate.weight");
  routed_experts(d, separate(kMlp + ".experts"));
  d.route = softmax_top(false);
  return d;
}

Definition mixtral_like(const char* type, bool is_fused) {
  const std::string at = is_fused ? kMlp : "model.layers.1.block_sparse_moe";
  Definition d;
  d.name = std::string(type) + (is_fused ? " tf5" : "");
  d.config = base_config(type, "num_local_experts", "intermediate_size");
  router(d, at + ".gate.weight");
  routed_experts(d, is_fused ? fused(at + ".experts") : separate(at + ".experts", kW132));
  d.route = softmax_top(true);
  return d;
}

Definition jamba(bool is_fused) {
  Definition d;
  d.name = is_fused ? "jamba tf5" : "jamba";
  d.config = base_config("jamba", "num_experts", "intermediate_size");
  d.config.update({{"expert_layer_period", 2}, {"expert_layer_offset", 1}});
  d.module = "model.layers.1.feed_forward";
  router(d, d.module + ".router.weight");
  const std::string experts = d.module + ".experts";
  routed_experts(d, is_fused ? fused(experts) : separate(experts));
  d.route = softmax_top(false);
  return d;
}

// ---- DeepSeek-V2, Mistral 4

Definition deepseek_v2(const char* method) {
  Definition d;
  d.name = std::string("deepseek_v2 ") + method;
  d.config = base_config("deepseek_v2", "n_routed_experts");
  d.config.update({{"topk_method", method},
                   {"n_group", 4},
                   {"topk_group", 2},
                   {"routed_scaling_factor", 16.0},
                   {"n_shared_experts", 2},
                   {"first_k_dense_replace", 1},
                   {"norm_topk_prob", false}});
  router(d, kMlp + ".gate.weight");
  routed_experts(d, separate(kMlp + ".experts"));
  shared_mlp(d, kMlp + ".shared_experts", 2 * kInner);
  const bool grouped = std::string(method) == "group_limited_greedy";
  d.route = [grouped](const Tensors&, const Row& logits, int64_t) {
    Row p = softmax(logits);
    if (grouped) p = inside_groups(p, 4, 2, 1, 0.0);
    return scaled(gathered(p, topk(p, kTopK)), 16.0);
  };
  return d;
}

// Published with one group; with several they are scored by their two best.
Definition mistral4(const char* form, const std::string& at, int groups, int kept) {
  Definition d;
  d.name = std::string("mistral4") + form;
  d.module = kNestedMlp;
  d.config = base_config("mistral4", "n_routed_experts");
  d.config.update({{"n_group", groups},
                   {"topk_group", kept},
                   {"norm_topk_prob", true},
                   {"routed_scaling_factor", 1.3},
                   {"n_shared_experts", 1},
                   {"first_k_dense_replace", 1},
                   {"intermediate_size", 8 * kInner}});
  d.config = nested("mistral3", d.config);
  d.config["vision_config"] = {{"model_type", "pixtral"}, {"hidden_size", 32}};
  router(d, at + ".gate.weight");
  routed_experts(d, fused(at + ".experts"));
  shared_mlp(d, at + ".shared_experts", kInner);
  d.route = [=](const Tensors&, const Row& logits, int64_t) {
    const Row p = softmax(logits);
    const Row choice = groups == 1 ? p : inside_groups(p, groups, kept, 2, 0.0);
    return scaled(normalized(gathered(p, topk(choice, kTopK)), 1e-20), 1.3);
  };
  return d;
}

// ---- DBRX

Definition dbrx() {
  Definition d;
  d.name = "dbrx";
  d.module = "transformer.blocks.1.ffn";
  d.config = {{"model_type", "dbrx"},
              {"d_model", kHidden},
              {"n_layers", 3},
              {"ffn_config",
               {{"moe_num_experts", kExperts},
                {"moe_top_k", kTopK},
                {"ffn_hidden_size", kInner},
                {"moe_jitter_eps", 0.01},
                {"moe_loss_weight", 0.05}}}};
  router(d, d.module + ".router.layer.weight");
  const std::string at = d.module + ".experts.mlp";
  const auto view = [=](const char* name, int64_t e, int64_t row_step, int64_t col_step) {
    return View{at + name, e * kInner * kHidden, row_step, col_step};
  };
  const Form form{[=](Maker& m) {
                    for (const char* name : {".w1", ".v1", ".w2"})
                      m.bf16(at + name, {kExperts * kInner, kHidden});
                  },
                  [=](int64_t e) {
                    return Ffn{view(".w1", e, kHidden, 1), view(".v1", e, kHidden, 1),
                               view(".w2", e, 1, kHidden)};
                  }};
  routed_experts(d, form);
  d.route = softmax_top(true);
  return d;
}

// ---- Hunyuan-A13B: lists say how many experts each layer chooses

Definition hunyuan(const std::string& form, int64_t layer, const std::array<size_t, 3>& top_k,
                   bool f32_router, bool is_fused = false) {
  const std::string at = "model.layers." + std::to_string(layer) + ".mlp";
  Definition d;
  d.name = "hunyuan_v1_moe" + form;
  d.layer = layer;
  d.module = at;
  d.config = base_config("hunyuan_v1_moe", "num_experts", "intermediate_size");
  d.config.erase("num_experts_per_tok");
  d.config.update({{"moe_topk", top_k},
                   {"moe_intermediate_size", {kInner, kInner, kInner}},
                   {"num_shared_expert", {1, 1, 1}},
                   {"norm_topk_prob", true},
                   {"route_scale", 1.0},
                   {"use_mixed_mlp_moe", true}});
  router(d, at + ".gate.wg.weight", {.f32 = f32_router});
  routed_experts(d, is_fused ? fused(at + ".experts") : separate(at + ".experts"));
  shared_mlp(d, at + ".shared_mlp", kInner);
  d.route = softmax_top(true, top_k.at(static_cast<size_t>(layer)));
  return d;
}

// ---- ERNIE 4.5

Route ernie_route(const std::string& bias) {
  return [=](const Tensors& t, const Row& logits, int64_t) {
    const Row p = softmax(logits);
    return normalized(gathered(p, topk(plus(p, t.at(bias).values), kTopK)), 0, 1e-12);
  };
}

Definition ernie(bool is_fused) {
  Definition d;
  d.name = is_fused ? "ernie4_5_moe tf5" : "ernie4_5_moe";
  d.config = base_config("ernie4_5_moe", "moe_num_experts");
  d.config.erase("num_experts_per_tok");
  d.config.update({{"moe_k", kTopK},
                   {"moe_num_shared_experts", 2},
                   {"moe_layer_start_index", 1},
                   {"moe_layer_interval", 2},
                   {"moe_layer_end_index", -1},
                   {"use_bias", false}});
  router(d, kMlp + ".gate.weight", {.f32 = is_fused});
  routed_experts(d, is_fused ? fused(kMlp + ".experts") : separate(kMlp + ".experts"));
  shared_mlp(d, kMlp + ".shared_experts", 2 * kInner);
  const std::string bias =
      kMlp + (is_fused ? ".gate" : "") + ".moe_statics.e_score_correction_bias";
  tensor_f32(d, bias, {1, kExperts}, 0.1);
  d.route = ernie_route(bias);
  return d;
}

// The text experts; those for images have a router, a bias and a width of their own.
Definition ernie_vl() {
  Definition d;
  d.name = "ernie4_5_moe_vl";
  d.module = kNestedMlp;
  d.config = base_config("ernie4_5_moe_vl");
  d.config.erase("num_experts");
  d.config.erase("num_experts_per_tok");
  d.config.update({{"architectures", {"Ernie4_5_VLMoeForConditionalGeneration"}},
                   {"moe_num_experts", {kExperts, kExperts}},
                   {"moe_intermediate_size", {kInner, kInner / 2}},
                   {"moe_k", kTopK},
                   {"moe_num_shared_experts", 2},
                   {"moe_layer_start_index", {1, 1}},
                   {"moe_layer_end_index", {2, 2}},
                   {"moe_layer_interval", 1},
                   {"moe_use_aux_free", true},
                   {"moe_gate", "topk"},
                   {"intermediate_size", 8 * kInner},
                   {"use_bias", false}});
  const std::string gate = kMlp + ".gate.weight";
  tensor_f32(d, gate, {kHidden, kExperts}, 0.2);
  tensor_f32(d, kMlp + ".gate.weight_1", {kHidden, kExperts}, 0.2);
  d.logits = [=](const Tensors& t, const Row& x) {
    return product(t, {gate, 0, 1, kExperts}, x, kExperts);
  };
  const std::string experts = kMlp + ".experts";
  routed_experts(d, separate(experts));
  d.tensors.push_back(separate(experts, kProj, {.inner = kInner / 2}, kExperts).make);
  shared_mlp(d, kMlp + ".shared_experts", 2 * kInner);
  const std::string bias = kMlp + ".moe_statics.e_score_correction_bias";
  tensor_f32(d, bias, {2, kExperts}, 0.1);
  d.route = ernie_route(bias);
  return d;
}

Definition ernie_vl_tf5() {
  Definition d;
  d.name = "ernie4_5_vl_moe tf5";
  d.module = kNestedMlp;
  d.config = base_config("ernie4_5_vl_moe_text", "moe_num_experts");
  d.config.erase("num_experts_per_tok");
  d.config.update({{"moe_intermediate_size", {kInner, kInner / 2}},
                   {"moe_k", kTopK},
                   {"moe_num_shared_experts", 2},
                   {"moe_norm_min", 1e-12},
                   {"mlp_layer_types", {"dense", "sparse", "sparse"}},
                   {"intermediate_size", 8 * kInner},
                   {"use_bias", false}});
  d.config = nested("ernie4_5_vl_moe", d.config);
  const std::string bias = ".gate.moe_statics.e_score_correction_bias";
  const std::string text = kNestedMlp + ".text_moe", images = kNestedMlp + ".vision_moe";
  router(d, text + ".gate.weight", {.f32 = true});
  tensor_f32(d, text + bias, {1, kExperts}, 0.1);
  routed_experts(d, fused(text + ".experts"));
  tensor_bf16(d, images + ".gate.weight", {kExperts, kHidden});
  tensor_bf16(d, images + bias, {1, kExperts});
  d.tensors.push_back(fused(images + ".experts", {.inner = kInner / 2}).make);
  shared_mlp(d, kNestedMlp + ".shared_experts", 2 * kInner);
  d.route = ernie_route(text + bias);
  return d;
}

// ---- LongCat-Flash: scores of experts that return their input, too

Definition longcat() {
  constexpr int64_t kZero = 8;
  constexpr size_t kChosen = 6;
  Definition d;
  d.name = "longcat_flash";
  d.config = {{"model_type", "longcat_flash"},
              {"hidden_size", kHidden},
              {"n_routed_experts", kExperts},
              {"zero_expert_num", kZero},
              {"zero_expert_type", "identity"},
              {"moe_topk", kChosen},
              {"expert_ffn_hidden_size", kInner},
              {"ffn_hidden_size", 8 * kInner},
              {"routed_scaling_factor", 6.0},
              {"router_bias", false},
              {"num_layers", 3}};
  router(d, kMlp + ".router.classifier.weight", {.rows = kExperts + kZero, .f32 = true});
  const std::string bias = kMlp + ".router.e_score_correction_bias";
  tensor_f32(d, bias, {kExperts + kZero}, 0.05);
  routed_experts(d, separate(kMlp + ".experts"));
  d.expert = [real = d.expert](const Tensors& t, size_t e, const Row& x) {
    return e < kExperts ? real(t, e, x) : x;
  };
  d.route = [=](const Tensors& t, const Row& logits, int64_t) {
    const Row p = softmax(logits);
    return scaled(gathered(p, topk(plus(p, t.at(bias).values), kChosen)), 6.0);
  };
  return d;
}

// ---- Gemma 4: the branch from the residual to its norm; the dense one beside it is not ours

double gelu_tanh_gated(double gate, double up) {
  const double root = std::sqrt(2 / std::acos(-1.0));
  return up * gate / 2 * (1 + std::tanh(root * (gate + 0.044715 * gate * gate * gate)));
}

Definition gemma4() {
  const std::string at = "model.language_model.layers.1";
  const double epsilon = 1e-2;  // large, so that it matters
  Definition d;
  d.name = "gemma4";
  d.module = at + ".moe";
  json text = {{"model_type", "gemma4_text"},
               {"hidden_size", kHidden},
               {"hidden_activation", "gelu_pytorch_tanh"},
               {"enable_moe_block", true},
               {"num_experts", kExperts},
               {"top_k_experts", kTopK},
               {"moe_intermediate_size", kInner},
               {"intermediate_size", 96},
               {"num_hidden_layers", 3},
               {"rms_norm_eps", epsilon}};
  d.config = nested("gemma4", text);
  const std::string proj = at + ".router.proj.weight", scale = at + ".router.scale";
  const std::string each_scale = at + ".router.per_expert_scale";
  tensor_bf16(d, proj, {kExperts, kHidden}, 2.0);
  tensor_bf16(d, scale, {kHidden}, 0.5, 1.0);
  tensor_bf16(d, each_scale, {kExperts}, 0.5, 1.0);
  d.logits = [=](const Tensors& t, const Row& x) {
    Row seen = times(rms_normalized(x, epsilon), t.at(scale).values);
    for (double& v : seen) v /= std::sqrt(static_cast<double>(kHidden));
    return product(t, {proj}, seen, kExperts);
  };
  d.route = [=, top = softmax_top(true)](const Tensors& t, const Row& logits, int64_t token) {
    Routed r = top(t, logits, token);
    for (size_t k = 0; k < kTopK; ++k) r.weights[k] *= t.at(each_scale).values[r.experts[k]];
    return r;
  };
  routed_experts(d, fused(at + ".experts"), gelu_tanh_gated);
  const auto norm = [&](const char* name) {
    const std::string weight = at + name;
    tensor_bf16(d, weight, {kHidden}, 0.5, 1.0);
    return [=](const Tensors& t, const Row& x) {
      return times(rms_normalized(x, epsilon), t.at(weight).values);
    };
  };
  d.before = norm(".pre_feedforward_layernorm_2.weight");
  d.after = norm(".post_feedforward_layernorm_2.weight");
  d.tensors.push_back(one(at + ".mlp", 96).make);
  for (const char* name :
       {".post_feedforward_layernorm.weight", ".post_feedforward_layernorm_1.weight",
        ".pre_feedforward_layernorm.weight"})
    tensor_bf16(d, at + name, {kHidden}, 0.5, 1.0);
  return d;
}

}  // namespace

std::vector<Definition> softmax_definitions() {
  return {qwen_like("qwen2_moe", false, true),
          qwen_like("qwen2_moe", false, true, true),
          qwen_like("qwen3_moe", true, false),
          qwen_like("qwen3_moe", true, false, true),
          qwen_like("qwen3_next", true, true),
          qwen3_5_like("qwen3_5_moe", false),
          qwen3_5_like("qwen3_5_moe", true),
          qwen3_5_like("qwen4_exp", false),
          qwen3_5_like("qwen4_exp", true),
          qwen3_vl_moe("", true, 80),
          qwen3_vl_moe(" square", true, kHidden / 2),
          qwen3_vl_moe(" tf5", false, 80),
          qwen3_omni_moe(false),
          qwen3_omni_moe(true),
          olmo_like("olmoe"),
          olmo_like("flex_olmo"),
          mixtral_like("mixtral", false),
          mixtral_like("mixtral", true),
          mixtral_like("minimax", false),
          mixtral_like("minimax", true),
          jamba(false),
          jamba(true),
          deepseek_v2("greedy"),
          deepseek_v2("group_limited_greedy"),
          mistral4("", "language_model.model.layers.1.mlp", 1, 1),
          mistral4(" groups", "language_model.model.layers.1.mlp", 4, 2),
          mistral4(" tf5", kNestedMlp, 1, 1),
          dbrx(),
          hunyuan("", 1, {4, 4, 4}, false),
          hunyuan(" first layer", 0, {3, 4, 2}, true),
          hunyuan(" last layer", 2, {3, 4, 2}, true),
          hunyuan(" tf5", 2, {3, 4, 2}, true, true),
          ernie(false),
          ernie(true),
          ernie_vl(),
          ernie_vl_tf5(),
          longcat(),
          gemma4()};
}

}  // namespace switchyard::testing
