// src/weights/moe_keys.cc
#include "weights/moe_keys.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/require.h"

namespace switchyard {
namespace {

using nlohmann::json;

// What a rule sees: the value, the object it stands in, what is computed.
struct Seen {
  const json& value;
  const json& config;
  const FamilyLayers& layers;

  const MoeConfig& block() const { return layers.config_of(first_layer()); }
  const GateConfig& gate() const { return layers.config.gate; }
  int64_t first_layer() const { return layers.moe_layers.empty() ? 0 : layers.moe_layers.front(); }
  bool is_moe(int64_t layer) const {
    return std::binary_search(layers.moe_layers.begin(), layers.moe_layers.end(), layer);
  }
  bool has(std::string_view key) const {
    const auto at = config.find(key);
    return at != config.end() && !at->is_null();
  }
  bool has_number(std::string_view key) const { return has(key) && config[key].is_number(); }
};

// Empty where the key agrees, else what is computed, in the key's own words.
using Verdict = std::optional<std::string>;
using Rule = Verdict (*)(const Seen&);

Verdict agrees_if(bool agrees, std::string computed) {
  return agrees ? Verdict() : Verdict(std::move(computed));
}

// ---- values

std::optional<double> number_in(const json& value, double null) {
  if (value.is_null()) return null;
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

bool is_number(const json& value, double expected, double null) {
  const auto number = number_in(value, null);
  return number && static_cast<float>(*number) == static_cast<float>(expected);
}

Verdict number_rule(const Seen& s, double computed, double null) {
  return agrees_if(is_number(s.value, computed, null), cat(computed));
}

Verdict flag_rule(const Seen& s, bool computed) {
  const bool value = s.value.is_boolean() && s.value.get<bool>();
  return agrees_if((s.value.is_boolean() || s.value.is_null()) && value == computed,
                   computed ? "true" : "false");
}

Verdict text_rule(const Seen& s, std::initializer_list<std::string_view> accepted) {
  const auto text = s.value.is_string() ? s.value.get<std::string>() : std::string();
  const bool good = std::find(accepted.begin(), accepted.end(), text) != accepted.end();
  return agrees_if(s.value.is_string() && good,
                   accepted.size() == 0 ? "none" : std::string(*accepted.begin()));
}

// One integer for all layers, or a list with one for each; where the list is shorter, its first
// entry is that of the text model.
Verdict size_rule(const Seen& s, const std::function<int64_t(const MoeConfig&)>& computed,
                  int64_t null) {
  for (const int64_t layer : s.layers.moe_layers) {
    const int64_t expected = computed(s.layers.config_of(layer));
    const json* value = &s.value;
    if (value->is_array() && !value->empty()) {
      const auto size = static_cast<int64_t>(value->size());
      value = &(*value)[static_cast<size_t>(size >= s.layers.num_layers ? layer : 0)];
    }
    const bool whole = value->is_null() || value->is_number_integer();
    if (!whole || !is_number(*value, static_cast<double>(expected), static_cast<double>(null)))
      return cat(expected, " in layer ", layer);
  }
  return {};
}

// ---- gate

Verdict scoring_rule(const Seen& s) {
  switch (s.gate().scoring) {
    case Scoring::Softmax:
    case Scoring::SoftmaxOfTopK: return text_rule(s, {"softmax"});
    case Scoring::Sigmoid: return text_rule(s, {"sigmoid"});
    case Scoring::SqrtSoftplus: return text_rule(s, {"sqrtsoftplus"});
    case Scoring::SparseMixer: break;
  }
  return text_rule(s, {"sparsemixer"});
}

Verdict sigmoid_rule(const Seen& s) {
  return flag_rule(s, s.gate().scoring == Scoring::Sigmoid);
}

Verdict method_rule(const Seen& s) {
  const GateConfig& g = s.gate();
  if (g.correction_bias) return text_rule(s, {"noaux_tc"});
  if (g.num_groups > 1 && g.group_score == GroupScore::Max)
    return text_rule(s, {"group_limited_greedy"});
  if (g.num_groups > 1) return Verdict("groups by their two best");
  return text_rule(s, {"greedy", "gready"});
}

Verdict renormalize_rule(const Seen& s) {
  return flag_rule(s, s.gate().renormalize || s.gate().scoring == Scoring::SoftmaxOfTopK);
}

// The exponent of a norm.
Verdict norm_exponent_rule(const Seen& s) {
  return number_rule(s, s.gate().renormalize ? 1 : 0, 0);
}

Verdict norm_floor_rule(const Seen& s) {
  return number_rule(s, s.gate().clamp_renormalizer ? s.gate().renormalize_epsilon : 0, 0);
}

Verdict scale_rule(const Seen& s) {
  return number_rule(s, s.gate().scale, 1);
}

Verdict groups_rule(const Seen& s) {
  return number_rule(s, static_cast<double>(s.gate().num_groups), 1);
}

Verdict groups_kept_rule(const Seen& s) {
  return number_rule(s, static_cast<double>(s.gate().num_groups_kept), 1);
}

// True with a number of groups changes nothing: that number is looked at on its own.
Verdict grouped_rule(const Seen& s) {
  const bool counted = s.has_number("n_group") || s.has_number("num_expert_group");
  if (counted && s.value == true) return {};
  return flag_rule(s, s.gate().num_groups > 1);
}

Verdict bias_rule(const Seen& s) {
  return flag_rule(s, s.gate().correction_bias);
}

Verdict router_bias_rule(const Seen& s) {
  return flag_rule(s, s.block().router_bias);
}

// Logits are fp32 products of what is stored.
Verdict router_dtype_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  return text_rule(s, {"float32", "fp32", "bfloat16", "bf16"});
}

Verdict router_f32_rule(const Seen& s) {
  return agrees_if(s.value.is_boolean() || s.value.is_null(), "true");
}

Verdict softcap_rule(const Seen& s) {
  return number_rule(s, s.gate().logit_softcap, 0);
}

Verdict weight_on_input_rule(const Seen& s) {
  return flag_rule(s, s.block().router_weight_on_input);
}

Verdict jitter_rule(const Seen& s) {
  if (s.gate().scoring == Scoring::SparseMixer) return number_rule(s, s.gate().jitter_epsilon, 0);
  return agrees_if(s.value.is_null() || s.value.is_number(), "a number");  // of training
}

Verdict top_k_gate_rule(const Seen& s) {
  return text_rule(s, {"topk", "top_k"});
}

Verdict hashed_rule(const Seen& s) {
  const auto hashed =
      std::count_if(s.layers.moe_layers.begin(), s.layers.moe_layers.end(),
                    [&](int64_t i) { return s.layers.config_of(i).gate.vocabulary > 0; });
  const auto value = number_in(s.value, 0);
  const bool agrees = value && std::min(*value, static_cast<double>(s.layers.num_layers)) ==
                                   static_cast<double>(hashed);
  return agrees_if(agrees, cat(hashed));
}

// ---- sizes

Verdict experts_rule(const Seen& s) {
  return size_rule(
      s, [](const MoeConfig& c) { return c.num_experts; }, 0);
}

Verdict top_k_rule(const Seen& s) {
  return size_rule(
      s, [](const MoeConfig& c) { return c.top_k; }, 0);
}

Verdict latent_rule(const Seen& s) {
  return size_rule(
      s, [](const MoeConfig& c) { return c.path.latent; }, 0);
}

Verdict latent_norm_rule(const Seen& s) {
  return flag_rule(s, s.block().path.output_norm);
}

Verdict zero_experts_rule(const Seen& s) {
  return size_rule(
      s, [](const MoeConfig& c) { return c.gate.num_zero_experts; }, 0);
}

Verdict zero_type_rule(const Seen& s) {
  if (s.gate().num_zero_experts == 0 && s.value.is_null()) return {};
  return text_rule(s, {"identity"});
}

// ---- activation and biases

bool has_limit(const Activation& a) {
  return a.kind == ActivationKind::ClampedSwiglu || a.kind == ActivationKind::SiluOfClamped ||
         a.kind == ActivationKind::ClampedSilu;
}
double limit_of(const Activation& a) {
  return has_limit(a) ? a.limit : 0;
}

Verdict activation_rule(const Seen& s) {
  const ActivationKind kind = s.block().activation.kind;
  const bool of_silu = kind == ActivationKind::SiluOfClamped || kind == ActivationKind::ClampedSilu;
  const char* name = activation_name(of_silu ? ActivationKind::SiluGated : kind);
  if (!s.value.is_string()) return Verdict(name);
  try {
    const ActivationKind asked = activation_from_name(s.value.get<std::string>()).kind;
    return agrees_if(asked == kind || (of_silu && asked == ActivationKind::SiluGated), name);
  } catch (const Error&) {
    return Verdict(name);
  }
}

Verdict limit_rule(const Seen& s) {
  return number_rule(s, limit_of(s.block().activation), 0);
}

Verdict limits_of(const Seen& s, const std::function<Activation(const MoeConfig&)>& activation) {
  if (!s.value.is_array() && !s.value.is_null()) return Verdict("a list");
  for (const int64_t layer : s.layers.moe_layers) {
    const auto i = static_cast<size_t>(layer);
    const json value = i < s.value.size() ? s.value[i] : json();
    const double computed = limit_of(activation(s.layers.config_of(layer)));
    if (!is_number(value, computed, 0)) return cat(computed, " in layer ", layer);
  }
  return {};
}

Verdict limits_rule(const Seen& s) {
  return limits_of(s, [](const MoeConfig& c) { return c.activation; });
}

Verdict shared_limits_rule(const Seen& s) {
  return limits_of(s, [](const MoeConfig& c) { return c.shared_activation(); });
}

Verdict alpha_rule(const Seen& s) {
  const Activation& a = s.block().activation;
  if (a.kind != ActivationKind::ClampedSwiglu) return agrees_if(s.value.is_null(), "none");
  return number_rule(s, a.alpha, 0);
}

Verdict situ_rule(const Seen& s, float computed) {
  if (s.block().activation.kind != ActivationKind::Situ)
    return agrees_if(s.value.is_null(), "none");
  return number_rule(s, computed, 0);
}

Verdict situ_alpha_rule(const Seen& s) {
  return situ_rule(s, s.block().activation.alpha);
}

Verdict situ_limit_rule(const Seen& s) {
  return situ_rule(s, s.block().activation.limit);
}

Verdict expert_bias_rule(const Seen& s) {
  return flag_rule(s, s.block().expert_bias);
}

// ---- shared experts

bool has_own_width(const Seen& s) {
  for (const char* key : {"shared_expert_intermediate_size", "shared_intermediate_size",
                          "moe_shared_expert_intermediate_size", "share_expert_dim"})
    if (s.has(key)) return true;
  return false;
}

// Of experts with a width of their own there is at most one.
Verdict shared_number_rule(const Seen& s) {
  const bool own = has_own_width(s);
  return size_rule(
      s,
      [own](const MoeConfig& c) -> int64_t {
        if (c.shared.intermediate == 0) return 0;
        return own ? 1 : c.shared.intermediate / c.intermediate;
      },
      0);
}

Verdict shared_width_rule(const Seen& s) {
  return size_rule(
      s, [](const MoeConfig& c) { return c.shared.intermediate; }, 0);
}

Verdict shared_present_rule(const Seen& s) {
  return flag_rule(s, s.block().shared.intermediate > 0);
}

Verdict shared_gate_rule(const Seen& s) {
  return flag_rule(s, s.block().shared.sigmoid_gated);
}

Verdict shared_scored_rule(const Seen& s) {
  return flag_rule(s, s.block().shared.num_scored > 0);
}

Verdict combination_rule(const Seen& s) {
  if (s.block().shared.intermediate == 0) return text_rule(s, {"sum", "average"});
  return s.layers.down_factor == 0.5f ? text_rule(s, {"average"}) : text_rule(s, {"sum"});
}

// ---- which layers are MoE layers

std::string layer_list(const Seen& s) {
  std::string list;
  for (const int64_t layer : s.layers.moe_layers) {
    list += cat(list.empty() ? "" : ", ", layer);
    if (list.size() > 40) return list + ", ...";
  }
  return "MoE layers " + (list.empty() ? "none" : list);
}

// Every MoE layer is one of those that the key allows.
Verdict allowed_rule(const Seen& s, int64_t null,
                     const std::function<bool(int64_t layer, int64_t value)>& allowed) {
  const json& value = s.value.is_array() && !s.value.empty() ? s.value[0] : s.value;
  if (!value.is_null() && !value.is_number_integer()) return layer_list(s);
  const int64_t number = value.is_null() ? null : value.get<int64_t>();
  const auto& layers = s.layers.moe_layers;
  return agrees_if(std::all_of(layers.begin(), layers.end(),
                               [&](int64_t layer) { return allowed(layer, number); }),
                   layer_list(s));
}

Verdict from_layer_rule(const Seen& s) {
  return allowed_rule(s, 0, [](int64_t layer, int64_t first) { return layer >= first; });
}

Verdict up_to_layer_rule(const Seen& s) {
  return allowed_rule(s, -1,
                      [](int64_t layer, int64_t last) { return last == -1 || layer <= last; });
}

Verdict every_nth_rule(const Seen& s) {
  return allowed_rule(s, 1, [](int64_t layer, int64_t step) {
    return step >= 1 && (step == 1 || layer % step == step - 1);
  });
}

Verdict only_one_rule(const Seen& s) {
  return number_rule(s, 1, 1);
}

Verdict period_rule(const Seen& s) {
  const int64_t first = s.first_layer();
  return allowed_rule(s, 1, [first](int64_t layer, int64_t period) {
    return period >= 1 && (layer - first) % period == 0;
  });
}

Verdict offset_rule(const Seen& s) {
  return number_rule(s, static_cast<double>(s.first_layer()), 0);
}

// A list or string with an entry for each layer; what it has more belongs to layers that predict
// later tokens.
Verdict each_layer_rule(const Seen& s, const std::function<bool(const json& entry)>& is_moe) {
  bool agrees = static_cast<int64_t>(s.value.size()) >= s.layers.num_layers;
  for (int64_t i = 0; agrees && i < s.layers.num_layers; ++i)
    agrees = is_moe(s.value[static_cast<size_t>(i)]) == s.is_moe(i);
  return agrees_if(agrees, layer_list(s));
}

Verdict types_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  if (!s.value.is_array()) return layer_list(s);
  return each_layer_rule(
      s, [](const json& v) { return v == "sparse" || v == "moe" || v == "hash_moe"; });
}

// Lists of attention and state-space layers have no "moe" in them.
Verdict blocks_rule(const Seen& s) {
  const bool names_moe =
      s.value.is_array() && std::find(s.value.begin(), s.value.end(), "moe") != s.value.end();
  return names_moe ? types_rule(s) : Verdict();
}

Verdict pattern_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  if (!s.value.is_string()) return layer_list(s);
  json kinds = json::array();
  for (const char kind : s.value.get<std::string>()) kinds.push_back(std::string(1, kind));
  return each_layer_rule({kinds, s.config, s.layers}, [](const json& v) { return v == "E"; });
}

Verdict flags_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  if (!s.value.is_array()) return layer_list(s);
  return each_layer_rule(s, [](const json& v) {
    return v.is_boolean() ? v.get<bool>() : v.is_number() && v.get<double>() != 0;
  });
}

// One integer (layers that it divides) or a flag for each layer.
Verdict frequency_rule(const Seen& s) {
  if (s.value.is_array()) return flags_rule(s);
  return allowed_rule(s, 1,
                      [](int64_t layer, int64_t step) { return step >= 1 && layer % step == 0; });
}

Verdict dense_list_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  if (!s.value.is_array()) return layer_list(s);
  return agrees_if(std::none_of(s.value.begin(), s.value.end(),
                                [&](const json& v) {
                                  return !v.is_number_integer() || s.is_moe(v.get<int64_t>());
                                }),
                   layer_list(s));
}

Verdict moe_list_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  const json alone = {{"list", s.value}};
  std::vector<int64_t> listed;
  try {
    listed = ConfigReader(alone, "").integers_of_text_or_list("list");
  } catch (const Error&) {
    return layer_list(s);
  }
  std::erase_if(listed, [&](int64_t layer) { return layer >= s.layers.num_layers; });
  std::sort(listed.begin(), listed.end());
  return agrees_if(listed == s.layers.moe_layers, layer_list(s));
}

Verdict has_moe_rule(const Seen& s) {
  return flag_rule(s, true);
}

struct KnownKey {
  std::string_view name;
  Rule rule;
};

// Sorted by what they are about.
constexpr std::array kKeys = {
    KnownKey{"scoring_func", scoring_rule},
    KnownKey{"scoring_function", scoring_rule},
    KnownKey{"score_func", scoring_rule},
    KnownKey{"score_function", scoring_rule},
    KnownKey{"router_score_function", scoring_rule},
    KnownKey{"router_activation", scoring_rule},
    KnownKey{"router_activation_func", scoring_rule},
    KnownKey{"moe_router_activation", scoring_rule},
    KnownKey{"moe_router_activation_func", scoring_rule},
    KnownKey{"moe_router_score_function", scoring_rule},
    KnownKey{"expert_selection_fn", scoring_rule},
    KnownKey{"moe_router_use_sigmoid", sigmoid_rule},
    KnownKey{"topk_method", method_rule},
    KnownKey{"moe_gate", top_k_gate_rule},

    KnownKey{"norm_topk_prob", renormalize_rule},
    KnownKey{"moe_norm_topk_prob", renormalize_rule},
    KnownKey{"moe_renormalize", renormalize_rule},
    KnownKey{"norm_expert_weight", renormalize_rule},
    KnownKey{"normalize_expert_weights", renormalize_rule},
    KnownKey{"route_norm", renormalize_rule},
    KnownKey{"moe_normalize_expert_weights", norm_exponent_rule},
    KnownKey{"moe_norm_min", norm_floor_rule},

    KnownKey{"routed_scaling_factor", scale_rule},
    KnownKey{"moe_routed_scaling_factor", scale_rule},
    KnownKey{"moe_router_scaling_factor", scale_rule},
    KnownKey{"moe_router_topk_scaling_factor", scale_rule},
    KnownKey{"router_scaling_factor", scale_rule},
    KnownKey{"route_scale", scale_rule},

    KnownKey{"n_group", groups_rule},
    KnownKey{"num_expert_group", groups_rule},
    KnownKey{"num_expert_groups", groups_rule},
    KnownKey{"moe_router_num_groups", groups_rule},
    KnownKey{"topk_group", groups_kept_rule},
    KnownKey{"num_limited_groups", groups_kept_rule},
    KnownKey{"moe_router_group_topk", groups_kept_rule},
    KnownKey{"use_grouped_topk", grouped_rule},
    KnownKey{"group_limited_greedy", grouped_rule},

    KnownKey{"use_routing_bias", bias_rule},
    KnownKey{"use_moe_router_bias", bias_rule},
    KnownKey{"use_router_bias", bias_rule},
    KnownKey{"use_expert_bias", bias_rule},
    KnownKey{"moe_use_aux_free", bias_rule},
    KnownKey{"moe_router_enable_expert_bias", bias_rule},
    KnownKey{"router_bias", router_bias_rule},

    KnownKey{"moe_router_dtype", router_dtype_rule},
    KnownKey{"router_dtype", router_dtype_rule},
    KnownKey{"gate_dtype", router_dtype_rule},
    KnownKey{"need_fp32_gate", router_f32_rule},
    KnownKey{"moe_router_logit_softcapping", softcap_rule},
    KnownKey{"router_logit_softcapping", softcap_rule},
    KnownKey{"router_jitter_noise", jitter_rule},
    KnownKey{"moe_apply_router_weight_on_input", weight_on_input_rule},
    KnownKey{"apply_router_weight_on_input", weight_on_input_rule},
    KnownKey{"num_hash_layers", hashed_rule},

    KnownKey{"num_experts", experts_rule},
    KnownKey{"num_local_experts", experts_rule},
    KnownKey{"n_routed_experts", experts_rule},
    KnownKey{"num_routed_experts", experts_rule},
    KnownKey{"moe_num_experts", experts_rule},
    KnownKey{"num_experts_per_tok", top_k_rule},
    KnownKey{"num_experts_per_token", top_k_rule},
    KnownKey{"experts_per_token", top_k_rule},
    KnownKey{"moe_topk", top_k_rule},
    KnownKey{"moe_top_k", top_k_rule},
    KnownKey{"moe_k", top_k_rule},
    KnownKey{"top_k_experts", top_k_rule},
    KnownKey{"moe_latent_size", latent_rule},
    KnownKey{"routed_expert_hidden_size", latent_rule},
    KnownKey{"latent_moe_use_norm", latent_norm_rule},
    KnownKey{"zero_expert_num", zero_experts_rule},
    KnownKey{"zero_expert_type", zero_type_rule},

    KnownKey{"hidden_act", activation_rule},
    KnownKey{"hidden_activation", activation_rule},
    KnownKey{"mlp_hidden_act", activation_rule},
    KnownKey{"moe_hidden_act", activation_rule},
    KnownKey{"swiglu_limit", limit_rule},
    KnownKey{"swiglu_limits", limits_rule},
    KnownKey{"swiglu_limits_shared", shared_limits_rule},
    KnownKey{"swiglu_alpha", alpha_rule},
    KnownKey{"activation_situ_beta", situ_alpha_rule},
    KnownKey{"activation_situ_linear_beta", situ_limit_rule},
    KnownKey{"mlp_bias", expert_bias_rule},
    KnownKey{"moe_bias", expert_bias_rule},
    KnownKey{"use_bias", expert_bias_rule},
    KnownKey{"add_bias_linear", expert_bias_rule},

    KnownKey{"n_shared_experts", shared_number_rule},
    KnownKey{"num_shared_experts", shared_number_rule},
    KnownKey{"num_shared_expert", shared_number_rule},
    KnownKey{"moe_num_shared_experts", shared_number_rule},
    KnownKey{"shared_expert_intermediate_size", shared_width_rule},
    KnownKey{"shared_intermediate_size", shared_width_rule},
    KnownKey{"moe_shared_expert_intermediate_size", shared_width_rule},
    KnownKey{"share_expert_dim", shared_width_rule},
    KnownKey{"share_expert_dims", shared_width_rule},
    KnownKey{"use_mixed_mlp_moe", shared_present_rule},
    KnownKey{"use_shared_expert_gate", shared_gate_rule},
    KnownKey{"shared_expert_sink", shared_scored_rule},
    KnownKey{"shared_expert_combination_strategy", combination_rule},

    KnownKey{"first_k_dense_replace", from_layer_rule},
    KnownKey{"num_dense_layers", from_layer_rule},
    KnownKey{"dense_mlp_idx", from_layer_rule},
    KnownKey{"moe_layer_num_skipped", from_layer_rule},
    KnownKey{"moe_layer_start_index", from_layer_rule},
    KnownKey{"moe_layer_offset", from_layer_rule},
    KnownKey{"moe_layer_end_index", up_to_layer_rule},
    KnownKey{"decoder_sparse_step", every_nth_rule},
    KnownKey{"moe_layer_interval", every_nth_rule},
    KnownKey{"interleave_moe_layer_step", every_nth_rule},
    KnownKey{"moe_every_n_layer", only_one_rule},
    KnownKey{"expert_layer_period", period_rule},
    KnownKey{"expert_layer_offset", offset_rule},
    KnownKey{"moe_layer_freq", frequency_rule},
    KnownKey{"is_moe_layer", flags_rule},
    KnownKey{"mlp_layer_types", types_rule},
    KnownKey{"layers_block_type", blocks_rule},
    KnownKey{"layer_types", blocks_rule},
    KnownKey{"hybrid_override_pattern", pattern_rule},
    KnownKey{"mlp_only_layers", dense_list_rule},
    KnownKey{"moe_layers", moe_list_rule},
    KnownKey{"moe_layers_enum", moe_list_rule},
    KnownKey{"enable_moe_block", has_moe_rule},
    KnownKey{"use_moe", has_moe_rule},
};

constexpr auto kNames = [] {
  std::array<std::string_view, kKeys.size()> names{};
  for (size_t i = 0; i < names.size(); ++i) names[i] = kKeys[i].name;
  return names;
}();

bool is_unread(const FamilyLayers& layers, std::string_view key, const std::string& value) {
  return std::any_of(layers.unread.begin(), layers.unread.end(),
                     [&](const UnreadKey& u) { return u.key == key && u.value == value; });
}

}  // namespace

void check_moe_keys(const ConfigReader& config, std::string_view family,
                    const FamilyLayers& layers) {
  for (const KnownKey& key : kKeys) {
    const auto at = config.json().find(key.name);
    if (at == config.json().end()) continue;
    const std::string value = at->dump();
    const Verdict computed = key.rule({*at, config.json(), layers});
    SWITCHYARD_REQUIRE(!computed || is_unread(layers, key.name, value), Unsupported,
                       "checkpoint: ", config.file(), ", ", key.name, "=", value.substr(0, 60),
                       ", ", family, " computes with ", *computed,
                       ". Use a family that does otherwise, or --config layer.json.");
  }
}

std::span<const std::string_view> moe_keys() {
  return kNames;
}

}  // namespace switchyard
