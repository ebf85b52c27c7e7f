// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/family_sigmoid.cc -- sigmoid scores, a correction bias for the choice, perhaps groups
// by their two best, renormalised and scaled; shared experts; the first layers may be dense.
#include "weights/family_parts.h"

namespace switchyard {
namespace {

// What a family has where its config says nothing.
struct Defaults {
  double scale = 1;
  bool renormalize = true;
  int64_t groups = 1, groups_kept = 1;
  int64_t shared = 1;
  int64_t first_dense = 0;
};

void describe_sigmoid(FamilyLayers& f, const ConfigReader& config, const Defaults& absent) {
  GateConfig& gate = f.config.gate;
  use_sigmoid_gate(gate);
  gate.renormalize = config.boolean_or({"norm_topk_prob", "moe_renormalize"}, absent.renormalize);
  gate.scale = scale_of(config, {"routed_scaling_factor"}, absent.scale);
  gate.num_groups = config.integer_or({"n_group", "num_expert_group"}, absent.groups, 1);
  gate.num_groups_kept = config.integer_or({"topk_group"}, absent.groups_kept, 1);
  add_shared_experts(f.config, config, absent.shared);
  f.moe_layers = sparse_layers(config, f.num_layers, absent.first_dense);
  f.forms = {names_of_experts(kMlp, kNames)};
}

void describe_deepseek_v3(FamilyLayers& f, const ConfigReader& config) {
  describe_sigmoid(f, config, {.scale = 2.5, .groups = 8, .groups_kept = 4, .first_dense = 3});
}

void describe_glm4_moe(FamilyLayers& f, const ConfigReader& config) {
  describe_sigmoid(f, config, {.first_dense = 1});
}

void describe_glm_moe_dsa(FamilyLayers& f, const ConfigReader& config) {
  describe_sigmoid(f, config, {.scale = 2.5, .first_dense = 3});
}

// Routed experts clamp what goes into their activation, the shared one does not.
void describe_hy_v4(FamilyLayers& f, const ConfigReader& config) {
  describe_sigmoid(f, config, {.scale = 2.827, .first_dense = 1});
  f.config.shared.activation = f.config.activation;
  clamp_before_silu(f.config.activation, config);
}

void describe_glm5_next(FamilyLayers& f, const ConfigReader& config) {
  describe_glm_moe_dsa(f, config);
  clamp_before_silu(f.config.activation, config);
}

void describe_exaone_moe(FamilyLayers& f, const ConfigReader& config) {
  describe_sigmoid(f, config, {.scale = 2.5, .first_dense = 1});
  TensorNames hub = f.forms.front();
  hub.correction_bias = cat(kMlp, ".e_score_correction_bias");
  f.forms.insert(f.forms.begin(), hub);
}

void describe_kimi_linear(FamilyLayers& f, const ConfigReader& config) {
  describe_sigmoid(f, config, {.scale = 2.446, .first_dense = 1});
  f.forms.insert(f.forms.begin(), names_of_w_experts(kSparseMoe, kNames));
}

// Kimi-Linear's gate; routed experts work on a latent, whose sum is normed; SiTU.
void describe_kimi_k3(FamilyLayers& f, const ConfigReader& config) {
  describe_kimi_linear(f, config);
  MoeConfig& c = f.config;
  Activation& act = c.activation;
  if (act.kind == ActivationKind::Situ) {
    act.alpha = config.float_or({"activation_situ_beta"}, 4.0);
    act.limit = config.float_or({"activation_situ_linear_beta"}, 25.0);
  }
  c.path.latent = config.integer_or({"routed_expert_hidden_size"}, 0, 0);
  c.path.output_norm = c.path.latent > 0 && config.boolean_or({"latent_moe_use_norm"}, false);
  c.path.norm_epsilon = config.float_or({"rms_norm_eps"}, 1e-5);
  for (const size_t form : {0, 1}) {
    TensorNames& names = f.forms[form];
    const std::string block = form == 0 ? kSparseMoe : kMlp;
    names.path_down = block + ".routed_expert_down_proj.weight";
    names.output_norm = block + ".routed_expert_norm.weight";
    names.path_up = block + ".routed_expert_up_proj.weight";
  }
  f.nested_module = cat("language_model.model.", kSparseMoe);
}

// Neither scale nor shared experts; no epsilon.
void describe_minimax_m2(FamilyLayers& f, const ConfigReader& config) {
  use_sigmoid_gate(f.config.gate, 0);
  f.config.gate.correction_bias = config.boolean_or({"use_routing_bias"}, true);
  constexpr BlockNames kOwn = {.correction_bias = ".e_score_correction_bias"};
  f.forms = {names_of_w_experts(kSparseMoe, kOwn), names_of_experts(kMlp, kOwn)};
}

// MiniMax-M2's gate, scaled; a shared expert; gpt-oss's activation in separate matrices.
void describe_minimax_m3(FamilyLayers& f, const ConfigReader& config) {
  describe_minimax_m2(f, config);
  MoeConfig& c = f.config;
  c.gate.scale = scale_of(config, {"routed_scaling_factor"}, 2.0);
  c.activation.kind = ActivationKind::ClampedSwiglu;
  c.activation.alpha = config.float_or({"swiglu_alpha"}, 1.702);
  c.activation.limit = config.float_or({"swiglu_limit"}, 7.0);
  f.unread = {{"hidden_act", "\"silu\""}};  // what transformers 5 writes; it is not read there
  c.shared.intermediate = config.integer_or({"shared_intermediate_size"}, 3072, 0);
  f.moe_layers = sparse_layers(config, f.num_layers, 0);
  TensorNames &hub = f.forms[0], &in_memory = f.forms[1];
  name_shared_expert(hub, cat(kSparseMoe, ".shared_experts"));
  in_memory.correction_bias = cat(kMlp, ".gate.e_score_correction_bias");
  in_memory.shared_gate_up = cat(kMlp, ".shared_experts.gate_up_proj.weight");
  in_memory.shared_down = cat(kMlp, ".shared_experts.down_proj.weight");
}

// Always renormalised, without epsilon; logits may be capped.
void describe_laguna(FamilyLayers& f, const ConfigReader& config) {
  MoeConfig& c = f.config;
  use_sigmoid_gate(c.gate, 0);
  c.gate.scale = scale_of(config, {"moe_routed_scaling_factor"}, 1.0);
  c.gate.logit_softcap = config.float_or({"moe_router_logit_softcapping"}, 0.0, 0.0);
  c.shared.intermediate = config.integer_or({"shared_expert_intermediate_size"}, 512, 0);
  f.moe_layers = sparse_layers(config, f.num_layers, 1);
  f.forms = {names_of_experts(kMlp, {.correction_bias = ".experts.e_score_correction_bias",
                                     .shared = ".shared_expert"}),
             names_of_experts(kMlp, kNames)};
}

void describe_hy_v3(FamilyLayers& f, const ConfigReader& config) {
  use_sigmoid_gate(f.config.gate);
  f.config.gate.scale = scale_of(config, {"router_scaling_factor"}, 2.826);
  add_shared_experts(f.config, config, 1);
  f.moe_layers = sparse_layers(config, f.num_layers, 1);
  f.forms = {names_of_experts(kMlp, {".router.gate.weight", ".expert_bias", ".shared_mlp"}),
             names_of_experts(kMlp, {.correction_bias = ".e_score_correction_bias",
                                     .shared = ".shared_experts"})};
}

void describe_afmoe(FamilyLayers& f, const ConfigReader& config) {
  use_sigmoid_gate(f.config.gate);
  f.config.gate.scale = scale_of(config, {"route_scale"}, 1.0);
  add_shared_experts(f.config, config, 2);
  f.moe_layers = layers_from(config.integer_or({"num_dense_layers"}, 1, 0), f.num_layers);
  f.forms = {names_of_experts(kMlp, {".router.gate.weight", ".expert_bias", ".shared_experts"})};
}

// No shared expert; a larger epsilon.
void describe_lfm2_moe(FamilyLayers& f, const ConfigReader& config) {
  GateConfig& gate = f.config.gate;
  use_sigmoid_gate(gate, 1e-6f);
  gate.correction_bias = config.boolean_or({"use_expert_bias"}, true);
  gate.renormalize = config.boolean_or({"norm_topk_prob"}, true);
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.0);
  f.moe_layers = layers_from(config.integer_or({"num_dense_layers"}, 2, 0), f.num_layers);
  const std::string block = "layers.{layer}.feed_forward";
  f.module = "model." + block;
  f.forms = {names_of_w_experts(block, {.correction_bias = ".expert_bias"})};
}

// ---- nemotron_h: experts of two matrices with relu^2 between them, perhaps on a latent; a pattern
// says which layers are MoE layers

// One entry per layer: 'E' of the pattern, or "moe".
std::vector<std::string> block_types(const ConfigReader& config) {
  auto types = config.texts_or_none({"layers_block_type"});
  if (!types.empty()) return types;
  for (const char kind : config.text({"hybrid_override_pattern"}))
    types.emplace_back(kind == 'E' ? "moe" : "other");
  return types;
}

void describe_nemotron_h(FamilyLayers& f, const ConfigReader& config) {
  MoeConfig& c = f.config;
  c.hidden = config.integer({"hidden_size"});
  c.intermediate = config.integer({"moe_intermediate_size"});
  c.num_experts = config.integer({"n_routed_experts", "num_local_experts"});
  c.top_k = config.integer({"num_experts_per_tok"});
  c.activation = activation_of(config, {"mlp_hidden_act"}, "relu2");
  use_sigmoid_gate(c.gate);
  read_groups(c.gate, config);
  if (num_shared_experts(config, 1) > 0)
    c.shared.intermediate = config.integer_or({"moe_shared_expert_intermediate_size"}, 7688, 0);
  c.path.latent = config.integer_or({"moe_latent_size"}, 0, 0);

  const auto types = block_types(config);
  f.num_layers = static_cast<int64_t>(types.size());
  for (int64_t i = 0; i < f.num_layers; ++i)
    if (types[i] == "moe") f.moe_layers.push_back(i);

  const std::string mixer = "layers.{layer}.mixer";
  TensorNames names = names_of_experts(mixer, kNames);
  names.fused_gate_up.clear();
  names.stacked_up = mixer + ".experts.up_proj";
  names.path_down = mixer + ".fc1_latent_proj.weight";
  names.path_up = mixer + ".fc2_latent_proj.weight";
  f.forms = {names};
  f.module = "model." + mixer;
}

// ---- step3p5, step3p7: some layers clamp what comes out of silu, the shared expert elsewhere than
// the routed ones

Activation activation_of(double limit) {
  Activation a;
  clamp_activation(a, ActivationKind::ClampedSilu, limit);
  return a;
}

// 0 where the list ends or is absent: no clamp.
double limit_at(const std::vector<double>& limits, int64_t layer) {
  const auto i = static_cast<size_t>(layer);
  return i < limits.size() ? limits[i] : 0.0;
}

// "3,4,5" or a list; from the fourth layer on without one.
std::vector<int64_t> step_layers(const ConfigReader& config, int64_t num_layers) {
  if (config.has({"mlp_layer_types"})) return sparse_layers(config, num_layers, 0);
  std::vector<int64_t> listed = config.integers_of_text_or_list("moe_layers_enum");
  std::erase_if(listed, [&](int64_t layer) { return layer >= num_layers; });
  return config.has({"moe_layers_enum"}) ? listed : layers_from(3, num_layers);
}

void describe_step(FamilyLayers& f, const ConfigReader& config) {
  MoeConfig& c = f.config;
  use_sigmoid_gate(c.gate, 0);
  c.gate.correction_bias = config.boolean_or({"use_moe_router_bias"}, true);
  c.gate.renormalize = config.boolean_or({"norm_expert_weight"}, true);
  c.gate.scale = scale_of(config, {"moe_router_scaling_factor"}, 1.0);
  c.shared.intermediate = config.integer_or({"share_expert_dim", "share_expert_dims"}, 1280, 0);
  f.moe_layers = step_layers(config, f.num_layers);
  const auto routed = config.numbers_or_none({"swiglu_limits"});
  const auto shared = config.numbers_or_none({"swiglu_limits_shared"});
  for (const int64_t layer : f.moe_layers) {
    MoeConfig own = c;
    own.activation = activation_of(limit_at(routed, layer));
    own.shared.activation = activation_of(limit_at(shared, layer));
    f.other_layers[layer] = own;
  }

  const std::string moe = "layers.{layer}.moe";
  TensorNames hub;
  hub.router = moe + ".gate.weight";
  hub.correction_bias = moe + ".router_bias";
  hub.stacked_gate = moe + ".gate_proj.weight";
  hub.stacked_up = moe + ".up_proj.weight";
  hub.fused_down = moe + ".down_proj.weight";
  name_shared_expert(hub, "layers.{layer}.share_expert");
  f.forms = {hub, names_of_experts(kMlp, kNames)};
  f.module = f.nested_module = cat("model.language_model.", kMlp);
}

// ---- deepseek_v4: square roots of softplus as scores; in the first layers a token's id chooses its
// experts; all experts clamp what goes into silu

// By mlp_layer_types, else the first num_hash_layers.
std::vector<int64_t> hashed_layers(const ConfigReader& config, int64_t num_layers) {
  const auto types = config.texts_or_none({"mlp_layer_types"});
  std::vector<int64_t> hashed;
  if (types.empty()) {
    const int64_t count = config.integer_or({"num_hash_layers"}, 3, 0);
    for (int64_t i = 0; i < std::min(count, num_layers); ++i) hashed.push_back(i);
  }
  for (size_t i = 0; i < types.size(); ++i)
    if (types[i] == "hash_moe") hashed.push_back(static_cast<int64_t>(i));
  return hashed;
}

void describe_deepseek_v4(FamilyLayers& f, const ConfigReader& config) {
  MoeConfig& c = f.config;
  use_sigmoid_gate(c.gate);
  c.gate.scoring = scoring_from_name(config, "scoring_func", "sqrtsoftplus");
  c.gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.5);
  clamp_before_silu(c.activation, config);
  add_shared_experts(c, config, 1);
  f.moe_layers = sparse_layers(config, f.num_layers, 0);
  for (const int64_t layer : hashed_layers(config, f.num_layers)) {
    MoeConfig& hashed = f.other_layers[layer] = c;
    hashed.gate.correction_bias = false;
    hashed.gate.vocabulary = config.integer({"vocab_size"});
  }

  const std::string ffn = "layers.{layer}.ffn";
  TensorNames hub = names_of_w_experts(ffn, {.correction_bias = ".gate.bias"});
  hub.token_experts = ffn + ".gate.tid2eid";
  hub.shared_gate = ffn + ".shared_experts.w1.weight";
  hub.shared_up = ffn + ".shared_experts.w3.weight";
  hub.shared_down = ffn + ".shared_experts.w2.weight";
  TensorNames in_memory = names_of_experts(kMlp, kNames);
  in_memory.token_experts = cat(kMlp, ".gate.tid2eid");
  f.forms = {hub, in_memory};
}

// ---- llama4, inkling

// Sigmoid top-1 with the weight on the input; a shared expert as wide as a routed one; experts in
// one tensor, transposed. The text model, alone or nested.
void describe_llama4(FamilyLayers& f, const ConfigReader& config) {
  f.config.gate.scoring = Scoring::Sigmoid;
  f.config.router_weight_on_input = true;
  f.moe_layers = config.integers_or_none({"moe_layers"});
  if (!config.has({"moe_layers"}))
    f.moe_layers =
        every_nth_layer(config.integer_or({"interleave_moe_layer_step"}, 1), f.num_layers);
  const std::string block = "layers.{layer}.feed_forward";
  f.module = "model." + block;
  f.nested_module = "language_model.model." + block;
  TensorNames names;
  names.router = block + ".router.weight";
  name_fused_experts(names, block);
  names.fused = Fused::Transposed;
  name_shared_expert(names, block + ".shared_expert");
  f.forms = {names};
  add_shared_experts(f.config, 1);
}

// Sigmoid scores of routed and shared experts, renormalised over both, scaled by a constant and a
// tensor; a correction bias for the choice.
void describe_inkling(FamilyLayers& f, const ConfigReader& config) {
  MoeConfig& c = f.config;
  // With a width of its own for dense layers, intermediate_size is that of the experts.
  if (config.has({"dense_intermediate_size"}))
    c.intermediate = config.integer({"intermediate_size"});
  use_sigmoid_gate(c.gate, 0);
  c.gate.scale = scale_of(config, {"route_scale"}, 8.0);
  c.gate.expert_scale = true;
  const int64_t shared = num_shared_experts(config, 2);
  add_shared_experts(c, shared);
  c.shared.num_scored = shared;
  f.moe_layers = sparse_layers(config, f.num_layers, config.integer_or({"dense_mlp_idx"}, 0, 0));

  const std::string mlp = kMlp;
  TensorNames in_memory;
  in_memory.router = mlp + ".gate.weight";
  in_memory.global_scale = mlp + ".gate.global_scale";
  TensorNames hub = in_memory;
  hub.correction_bias = mlp + ".gate.bias";
  hub.fused_gate_up = mlp + ".experts.w13_weight";
  hub.fused_down = mlp + ".experts.w2_weight";
  hub.fused_interleaved = hub.shared_interleaved = true;
  hub.shared_gate_up = mlp + ".shared_experts.shared_w13_weight";
  hub.shared_down = mlp + ".shared_experts.shared_w2_weight";
  in_memory.correction_bias = mlp + ".gate.e_score_correction_bias";
  name_fused_experts(in_memory, mlp);
  in_memory.shared_gate = mlp + ".shared_experts.gate_proj";
  in_memory.shared_up = mlp + ".shared_experts.up_proj";
  in_memory.shared_down = mlp + ".shared_experts.down_proj";
  f.forms = {hub, in_memory};
}

}  // namespace

std::vector<Family> sigmoid_families() {
  return {
      {"afmoe", "Afmoe", describe_afmoe},
      {"deepseek_v3", "DeepseekV3", describe_deepseek_v3},
      {"deepseek_v32", "DeepseekV32", describe_deepseek_v3},
      {"deepseek_v4", "DeepseekV4", describe_deepseek_v4},
      {"dots1", "Dots1",
       [](auto& f, auto& config) {
         describe_sigmoid(f, config, {.renormalize = false, .shared = 0});
       }},
      {"exaone_moe", "ExaoneMoe", describe_exaone_moe},
      {"glm4_moe", "Glm4Moe", describe_glm4_moe},
      {"glm4_moe_lite", "Glm4MoeLite",
       [](auto& f, auto& config) {
         describe_sigmoid(f, config, {.scale = 1.8, .first_dense = 1});
       }},
      {"glm4v_moe", "Glm4vMoe", describe_glm4_moe},
      {"glm5_next", "Glm5Next", describe_glm5_next},
      {"glm_moe_dsa", "GlmMoeDsa", describe_glm_moe_dsa},
      {"hy_v3", "HYV3", describe_hy_v3},
      {"hy_v4", "HYV4", describe_hy_v4},
      {"inkling", "Inkling", describe_inkling},
      {"inkling_mm_model", "Inkling", describe_inkling},
      {"kimi_k2", "DeepseekV3", describe_deepseek_v3},
      {"kimi_k3", "KimiK3 KimiLinear", describe_kimi_k3},
      {"kimi_linear", "KimiLinear", describe_kimi_linear},
      {"laguna", "Laguna", describe_laguna},
      {"lfm2_moe", "Lfm2Moe", describe_lfm2_moe},
      {"llama4", "Llama4", describe_llama4},
      {"mimo_v2_flash", "MiMoV2Flash",
       [](auto& f, auto& config) { describe_sigmoid(f, config, {.shared = 0, .first_dense = 1}); }},
      {"minimax_m2", "MiniMaxM2", describe_minimax_m2},
      {"minimax_m3", "MiniMaxM3Sparse", describe_minimax_m3},
      {"minimax_m3_vl", "MiniMaxM3Sparse", describe_minimax_m3},
      {"nemotron_h", "NemotronH", describe_nemotron_h, true},
      {"solar_open", "SolarOpen", [](auto& f, auto& config) { describe_sigmoid(f, config, {}); }},
      {"step3p5", "Step3p5", describe_step},
      {"step3p7", "Step3p7 Step3p5", describe_step},
  };
}

}  // namespace switchyard
