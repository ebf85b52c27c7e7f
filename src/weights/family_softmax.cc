// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/family_softmax.cc -- softmax over all experts, then top-k.
#include <algorithm>

#include "weights/family_parts.h"

namespace switchyard {
namespace {

// mixtral, minimax: always renormalised; w1 is gate, w3 is up.
void describe_mixtral(FamilyLayers& f, const ConfigReader&) {
  f.config.gate.renormalize = true;
  f.forms = {names_of_w_experts(kSparseMoe), names_of_experts(kMlp)};
}

// olmoe, flex_olmo: as it comes.
void describe_olmoe(FamilyLayers& f, const ConfigReader& config) {
  f.config.gate.renormalize = config.boolean_or({"norm_topk_prob"}, false);
  f.forms = {names_of_experts(kMlp)};
}

// Every few layers.
void describe_jamba(FamilyLayers& f, const ConfigReader& config) {
  f.moe_layers = every_layer_of(config.integer_or({"expert_layer_offset"}, 1),
                                config.integer_or({"expert_layer_period"}, 2), f.num_layers);
  const std::string block = "layers.{layer}.feed_forward";
  f.module = "model." + block;
  f.forms = {names_of_experts(block, {.router = ".router.weight"})};
}

// The rows of all experts of a layer are one matrix. Weights are divided by their 1-norm,
// or by nothing where the exponent is null.
void describe_dbrx(FamilyLayers& f, const ConfigReader& config) {
  const auto ffn = config.object({"ffn_config"});
  SWITCHYARD_REQUIRE(ffn.has_value(), BadFile, "checkpoint: ", config.file(),
                     ", ffn_config=nothing, dbrx describes its experts there.");
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  MoeConfig& c = f.config;
  c.hidden = config.integer({"d_model", "hidden_size"});
  c.intermediate = ffn->integer({"ffn_hidden_size"});
  c.num_experts = ffn->integer({"moe_num_experts"});
  c.top_k = ffn->integer({"moe_top_k"});
  if (const auto act = ffn->object({"ffn_act_fn"}))
    c.activation = activation_of(*act, {"name"}, "silu");
  const double norm = ffn->number_or({"moe_normalize_expert_weights"}, 1.0, 0.0);
  SWITCHYARD_REQUIRE(norm == 1 || norm == 0, Unsupported, "checkpoint: ", config.file(),
                     ", moe_normalize_expert_weights=", norm,
                     ", dbrx computes with 1 or null. Use one of these.");
  c.gate.renormalize = norm == 1;
  const std::string block = "blocks.{layer}.ffn";
  f.module = "transformer." + block;
  TensorNames names;
  names.router = block + ".router.layer.weight";
  names.stacked_gate = block + ".experts.mlp.w1";
  names.stacked_up = block + ".experts.mlp.v1";
  names.fused_down = block + ".experts.mlp.w2";
  names.flat_stacks = true;
  f.forms = {names};
}

// hunyuan_v1_moe: always renormalised; a shared expert. Sizes may be lists, one entry per layer.
void describe_hunyuan_v1_moe(FamilyLayers& f, const ConfigReader& config) {
  f.num_layers = num_layers_of(config);
  const auto of_layers = [&](ConfigReader::Keys keys) {
    return config.integer_of_layers(keys, f.num_layers);
  };
  const auto widths = config.has({"moe_intermediate_size"}) ? of_layers({"moe_intermediate_size"})
                                                            : of_layers({"intermediate_size"});
  const auto experts = of_layers({"num_experts", "num_local_experts"});
  const auto chosen = of_layers({"moe_topk", "num_experts_per_tok"});
  const auto shared = config.has({"num_shared_expert"}) ? of_layers({"num_shared_expert"})
                                                        : std::vector<int64_t>(experts.size(), 1);
  const bool has_shared = config.boolean_or({"use_mixed_mlp_moe"}, true);
  f.config.hidden = config.integer({"hidden_size"});
  f.config.activation = activation_of(config, {"hidden_act"}, "silu");
  f.config.gate.renormalize = true;
  for (int64_t layer = 0; layer < f.num_layers; ++layer) {
    const auto i = static_cast<size_t>(layer);
    MoeConfig c = f.config;
    c.intermediate = widths[i];
    c.num_experts = experts[i];
    c.top_k = chosen[i];
    add_shared_experts(c, has_shared ? shared[i] : 0);
    if (layer == 0)
      f.config = c;
    else if (c != f.config)
      f.other_layers[layer] = c;
    f.moe_layers.push_back(layer);
  }
  f.forms = {names_of_experts(kMlp, {.router = ".gate.wg.weight", .shared = ".shared_mlp"})};
  // Published so, and not read: there are no groups.
  f.unread = {{"n_group", "false"}, {"topk_group", "false"}};
}

// gemma4: the router sees normed and scaled hidden states, softmax then top-k, renormalised, then a
// scale per expert; norms before and after the experts.
void describe_gemma4(FamilyLayers& f, const ConfigReader& config) {
  SWITCHYARD_REQUIRE(config.boolean_or({"enable_moe_block"}, false), Unsupported,
                     "checkpoint: ", config.file(),
                     ", enable_moe_block=false, the model has no MoE layers. Use one that has.");
  f = common_layers(config);
  MoeConfig& c = f.config;
  c.gate.renormalize = c.gate.expert_scale = c.gate.rms_of_hidden = true;
  c.router_f32 = true;  // the columns' scales are folded into it
  c.path.input_norm = c.path.output_norm = true;
  c.path.norm_epsilon = config.float_or({"rms_norm_eps"}, 1e-6);
  const std::string layer = "layers.{layer}";
  TensorNames names;
  names.router = layer + ".router.proj.weight";
  names.router_scale = layer + ".router.scale";
  names.expert_scale = layer + ".router.per_expert_scale";
  name_fused_experts(names, layer);
  names.input_norm = layer + ".pre_feedforward_layernorm_2.weight";
  names.output_norm = layer + ".post_feedforward_layernorm_2.weight";
  f.forms = {names};
  f.module = "model." + layer + ".moe";
}

// ---- qwen: some layers may be dense; some families have a shared expert with a sigmoid gate

std::vector<int64_t> layers_without_dense_ones(const ConfigReader& config, int64_t num_layers) {
  auto dense = config.integers_or_none({"mlp_only_layers"});
  std::ranges::sort(dense);
  auto layers = every_nth_layer(config.integer_or({"decoder_sparse_step"}, 1), num_layers);
  std::erase_if(layers, [&](int64_t layer) { return std::ranges::binary_search(dense, layer); });
  return layers;
}

void describe_qwen(FamilyLayers& f, const ConfigReader& config, bool renormalize_by_default) {
  f.config.gate.renormalize = config.boolean_or({"norm_topk_prob"}, renormalize_by_default);
  f.moe_layers = layers_without_dense_ones(config, f.num_layers);
  f.forms = {names_of_experts(kMlp)};
}

void with_gated_shared_expert(FamilyLayers& f, const ConfigReader& config) {
  const int64_t width = config.integer_or({"shared_expert_intermediate_size"}, 0, 0);
  f.config.shared = {.intermediate = width, .sigmoid_gated = width > 0};
  for (TensorNames& names : f.forms) {
    name_shared_expert(names, cat(kMlp, ".shared_expert"));
    names.shared_expert_gate = cat(kMlp, ".shared_expert_gate.weight");
  }
}

// A text model taken out of Qwen3-VL has its transposed experts.
void describe_qwen3_moe(FamilyLayers& f, const ConfigReader& config) {
  describe_qwen(f, config, false);
  f.forms.front().fused = Fused::Either;
}

void describe_qwen3_next(FamilyLayers& f, const ConfigReader& config) {
  describe_qwen(f, config, true);
  with_gated_shared_expert(f, config);
}

// Always renormalised: absent norm_topk_prob says nothing else.
void describe_qwen3_5_moe(FamilyLayers& f, const ConfigReader& config) {
  describe_qwen3_next(f, config);
  f.config.gate.renormalize = true;
}

// The hub has [E, H, 2I] where transformers 5 has [E, 2I, H], under the same names.
void describe_qwen3_vl_moe(FamilyLayers& f, const ConfigReader& config) {
  describe_qwen(f, config, true);
  f.config.gate.renormalize = true;
  f.forms.front().fused = Fused::Either;
}

// The thinker; the talker is another model.
void describe_qwen3_omni_moe(FamilyLayers& f, const ConfigReader& config) {
  describe_qwen(f, config, true);
  f.nested_module = "thinker.model.language_model.layers.{layer}.mlp";
}

// ---- perhaps inside the best groups; scaled; shared experts

// Greedy, or greedy inside the groups with the best expert; never renormalised.
void describe_deepseek_v2(FamilyLayers& f, const ConfigReader& config) {
  GateConfig& gate = f.config.gate;
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.0);
  const std::string method = config.text_or({"topk_method"}, "greedy");
  // "gready" is how the first published configs spell it.
  SWITCHYARD_REQUIRE(method == "greedy" || method == "gready" || method == "group_limited_greedy",
                     Unsupported, "checkpoint: ", config.file(), ", topk_method=", method,
                     ", deepseek_v2 has greedy and group_limited_greedy.");
  if (method == "group_limited_greedy") {
    gate.group_score = GroupScore::Max;
    gate.num_groups = config.integer({"n_group"});
    gate.num_groups_kept = config.integer({"topk_group"});
  } else {
    // Groups are not read then, whatever their number.
    for (const char* key : {"n_group", "topk_group"})
      if (const int64_t groups = config.integer_or({key}, 0, 0); groups > 0)
        f.unread.push_back({key, std::to_string(groups)});
  }
  f.moe_layers = layers_from(config.integer_or({"first_k_dense_replace"}, 0, 0), f.num_layers);
  add_shared_experts(f.config, config, 2);
  f.forms = {names_of_experts(kMlp, {.shared = ".shared_experts"})};
}

// Groups by their two best; renormalised.
void describe_mistral4(FamilyLayers& f, const ConfigReader& config) {
  read_groups(f.config.gate, config);
  f.config.gate.renormalize_epsilon = 1e-20f;
  f.moe_layers = layers_from(config.integer_or({"first_k_dense_replace"}, 0, 0), f.num_layers);
  add_shared_experts(f.config, config, 1);
  f.forms = {names_of_experts(kMlp, {.shared = ".shared_experts"})};
}

// ---- a correction bias for the choice

// Weights divided by their sum or a floor.
void use_ernie_gate(GateConfig& gate, const ConfigReader& config) {
  gate.correction_bias = config.boolean_or({"moe_use_aux_free"}, true);
  gate.renormalize = gate.clamp_renormalizer = true;
  gate.renormalize_epsilon = config.float_or({"moe_norm_min"}, 1e-12);
}

struct LayerRange {
  int64_t start, end, step;
};

// MoE layers from one index to another in steps.
std::vector<int64_t> layers_in(const LayerRange& range, int64_t num_layers) {
  const int64_t end = range.end == -1 ? num_layers : std::min(num_layers - 1, range.end) + 1;
  auto layers = every_nth_layer(range.step, end);
  std::erase_if(layers, [&](int64_t layer) { return layer < range.start; });
  return layers;
}

// The text experts' entry of [text, image], or the one there is.
int64_t of_text(const ConfigReader& config, const char* key, std::optional<int64_t> absent = {}) {
  if (!config.is_list(key))
    return absent ? config.integer_or({key}, *absent) : config.integer({key});
  return config.integer_of_layers({key}, 1).front();
}

void describe_ernie4_5_moe(FamilyLayers& f, const ConfigReader& config) {
  use_ernie_gate(f.config.gate, config);
  add_shared_experts(f.config, config, 2);
  f.moe_layers = layers_in({config.integer_or({"moe_layer_start_index"}, 1),
                            config.integer_or({"moe_layer_end_index"}, -1),
                            config.integer_or({"moe_layer_interval"}, 1)},
                           f.num_layers);
  for (const char* bias :
       {".moe_statics.e_score_correction_bias", ".gate.moe_statics.e_score_correction_bias"})
    f.forms.push_back(
        names_of_experts(kMlp, {.correction_bias = bias, .shared = ".shared_experts"}));
}

// The text experts; those of images, their router and the second row of the bias are left out.
void describe_ernie4_5_vl_moe(FamilyLayers& f, const ConfigReader& config) {
  MoeConfig& c = f.config;
  c.hidden = config.integer({"hidden_size"});
  c.intermediate = of_text(config, "moe_intermediate_size");
  c.num_experts = of_text(config, "moe_num_experts");
  c.top_k = config.integer({"moe_k", "num_experts_per_tok"});
  c.activation = activation_of(config, {"hidden_act"}, "silu");
  use_ernie_gate(c.gate, config);
  add_shared_experts(c, config, 2);
  f.num_layers = num_layers_of(config);
  f.moe_layers = config.has({"mlp_layer_types"})
                     ? sparse_layers(config, f.num_layers, 1)
                     : layers_in({of_text(config, "moe_layer_start_index", 1),
                                  of_text(config, "moe_layer_end_index", -1),
                                  config.integer_or({"moe_layer_interval"}, 1)},
                                 f.num_layers);
  TensorNames hub =
      names_of_experts(kMlp, {.correction_bias = ".moe_statics.e_score_correction_bias"});
  hub.router_transposed = true;
  hub.correction_rows = 2;
  f.forms = {hub,
             names_of_experts(cat(kMlp, ".text_moe"),
                              {.correction_bias = ".gate.moe_statics.e_score_correction_bias"})};
  for (TensorNames& names : f.forms) name_shared_expert(names, cat(kMlp, ".shared_experts"));
  f.module = f.nested_module = cat("model.language_model.", kMlp);
  f.left_out = {cat(kMlp, ".gate.weight_1")};
  f.num_left_out_experts = c.num_experts;
}

// Never renormalised; zero experts return their input. The other MLPs of a layer are dense.
void describe_longcat_flash(FamilyLayers& f, const ConfigReader& config) {
  GateConfig& gate = f.config.gate;
  gate.correction_bias = true;
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 6.0);
  gate.num_zero_experts = config.integer_or({"zero_expert_num"}, 256, 0);
  f.config.router_bias = config.boolean_or({"router_bias"}, false);
  // transformers counts both halves of a layer as layers.
  f.num_layers = config.integer({"num_layers"});
  f.moe_layers = layers_from(0, f.num_layers);
  f.forms = {names_of_experts(kMlp, {.router = ".router.classifier.weight",
                                     .correction_bias = ".router.e_score_correction_bias"})};
  f.forms.front().router_bias = cat(kMlp, ".router.classifier.bias");
}

}  // namespace

std::vector<Family> softmax_families() {
  return {
      {"dbrx", "Dbrx", describe_dbrx, true},
      {"deepseek_v2", "DeepseekV2", describe_deepseek_v2},
      {"ernie4_5_moe", "Ernie4_5_Moe", describe_ernie4_5_moe},
      {"ernie4_5_moe_vl", "Ernie4_5_VLMoe", describe_ernie4_5_vl_moe, true},
      {"ernie4_5_vl_moe", "Ernie4_5_VLMoe", describe_ernie4_5_vl_moe, true},
      {"flex_olmo", "FlexOlmo", describe_olmoe},
      {"gemma4", "Gemma4", describe_gemma4, true},
      {"hunyuan_v1_moe", "HunYuanMoEV1", describe_hunyuan_v1_moe, true},
      {"jamba", "Jamba", describe_jamba},
      {"longcat_flash", "LongcatFlash", describe_longcat_flash},
      {"minimax", "MiniMax", describe_mixtral},
      {"mistral4", "Mistral4", describe_mistral4},
      {"mixtral", "Mixtral", describe_mixtral},
      {"olmoe", "Olmoe", describe_olmoe},
      {"qwen2_moe", "Qwen2Moe",
       [](auto& f, auto& config) {
         describe_qwen(f, config, false);
         with_gated_shared_expert(f, config);
       }},
      {"qwen3_5_moe", "Qwen3_5Moe", describe_qwen3_5_moe},
      {"qwen3_moe", "Qwen3Moe", describe_qwen3_moe},
      {"qwen3_next", "Qwen3Next", describe_qwen3_next},
      {"qwen3_omni_moe", "Qwen3OmniMoe Qwen3Moe", describe_qwen3_omni_moe},
      {"qwen3_omni_moe_thinker", "Qwen3OmniMoe Qwen3Moe", describe_qwen3_omni_moe},
      {"qwen3_vl_moe", "Qwen3VLMoe Qwen3Moe", describe_qwen3_vl_moe},
      {"qwen4_exp", "Qwen4Exp", describe_qwen3_next},
  };
}

}  // namespace switchyard
