// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/moe_keys.cc -- what each key says about the block that is computed.
#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "weights/family.h"
#include "weights/text.h"

namespace switchyard {
namespace {

using nlohmann::json;

// What a rule sees: the value, the object that has it, what is computed.
struct Seen {
  const json& value;
  const json& config;
  const FamilyLayers& layers;

  const MoeConfig& block() const { return layers.config_of(first_layer()); }
  const GateConfig& gate() const { return layers.config.gate; }
  int64_t first_layer() const { return layers.moe_layers.empty() ? 0 : layers.moe_layers.front(); }
  bool is_moe(int64_t layer) const { return std::ranges::binary_search(layers.moe_layers, layer); }
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

Verdict number_rule(const Seen& s, double computed, double null = 0) {
  return agrees_if(is_number(s.value, computed, null), cat(computed));
}

Verdict flag_rule(const Seen& s, bool computed) {
  const bool value = s.value.is_boolean() && s.value.get<bool>();
  return agrees_if((s.value.is_boolean() || s.value.is_null()) && value == computed,
                   computed ? "true" : "false");
}

Verdict text_rule(const Seen& s, std::initializer_list<std::string_view> accepted) {
  const auto text = s.value.is_string() ? s.value.get<std::string>() : std::string();
  const bool good = std::ranges::find(accepted, text) != accepted.end();
  return agrees_if(s.value.is_string() && good,
                   accepted.size() == 0 ? "none" : std::string(*accepted.begin()));
}

// One integer for all layers, or a list with one for each; where the list is shorter, its first
// entry is that of the text model.
Verdict size_rule(const Seen& s, const std::function<int64_t(const MoeConfig&)>& computed) {
  for (const int64_t layer : s.layers.moe_layers) {
    const int64_t expected = computed(s.layers.config_of(layer));
    const json* value = &s.value;
    if (value->is_array() && !value->empty()) {
      const auto size = static_cast<int64_t>(value->size());
      value = &(*value)[size >= s.layers.num_layers ? layer : 0];
    }
    const bool whole = value->is_null() || value->is_number_integer();
    if (!whole || !is_number(*value, expected, 0)) return cat(expected, " in layer ", layer);
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

Verdict method_rule(const Seen& s) {
  const GateConfig& g = s.gate();
  if (g.correction_bias) return text_rule(s, {"noaux_tc"});
  if (g.num_groups > 1 && g.group_score == GroupScore::Max)
    return text_rule(s, {"group_limited_greedy"});
  if (g.num_groups > 1) return Verdict("groups by their two best");
  return text_rule(s, {"greedy", "gready"});
}

// True with a number of groups changes nothing: that number is looked at on its own.
Verdict grouped_rule(const Seen& s) {
  const bool counted = s.has_number("n_group") || s.has_number("num_expert_group");
  if (counted && s.value == true) return {};
  return flag_rule(s, s.gate().num_groups > 1);
}

// Logits are fp32 products of what is stored.
Verdict router_dtype_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  return text_rule(s, {"float32", "fp32", "bfloat16", "bf16"});
}

Verdict jitter_rule(const Seen& s) {
  if (s.gate().scoring == Scoring::SparseMixer) return number_rule(s, s.gate().jitter_epsilon);
  return agrees_if(s.value.is_null() || s.value.is_number(), "a number");  // of training
}

Verdict hashed_rule(const Seen& s) {
  const auto hashed = std::ranges::count_if(
      s.layers.moe_layers, [&](int64_t i) { return s.layers.config_of(i).gate.vocabulary > 0; });
  const auto value = number_in(s.value, 0);
  const bool agrees = value && std::min(*value, static_cast<double>(s.layers.num_layers)) ==
                                   static_cast<double>(hashed);
  return agrees_if(agrees, cat(hashed));
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

Verdict limits_of(const Seen& s, const std::function<Activation(const MoeConfig&)>& activation) {
  if (!s.value.is_array() && !s.value.is_null()) return Verdict("a list");
  for (const int64_t layer : s.layers.moe_layers) {
    const auto i = static_cast<size_t>(layer);
    static const json absent;
    const json& value = i < s.value.size() ? s.value[i] : absent;
    const double computed = limit_of(activation(s.layers.config_of(layer)));
    if (!is_number(value, computed, 0)) return cat(computed, " in layer ", layer);
  }
  return {};
}

Verdict alpha_rule(const Seen& s) {
  const Activation& a = s.block().activation;
  if (a.kind != ActivationKind::ClampedSwiglu) return agrees_if(s.value.is_null(), "none");
  return number_rule(s, a.alpha);
}

Verdict situ_rule(const Seen& s, float computed) {
  if (s.block().activation.kind != ActivationKind::Situ)
    return agrees_if(s.value.is_null(), "none");
  return number_rule(s, computed);
}

// ---- shared experts

bool has_own_width(const Seen& s) {
  return s.has("shared_expert_intermediate_size") || s.has("shared_intermediate_size") ||
         s.has("moe_shared_expert_intermediate_size") || s.has("share_expert_dim");
}

// Of experts with a width of their own there is at most one.
Verdict shared_number_rule(const Seen& s) {
  const bool own = has_own_width(s);
  return size_rule(s, [own](const MoeConfig& c) -> int64_t {
    if (c.shared.intermediate == 0) return 0;
    return own ? 1 : c.shared.intermediate / c.intermediate;
  });
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
  return agrees_if(
      std::ranges::all_of(layers, [&](int64_t layer) { return allowed(layer, number); }),
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

Verdict period_rule(const Seen& s) {
  const int64_t first = s.first_layer();
  return allowed_rule(s, 1, [first](int64_t layer, int64_t period) {
    return period >= 1 && (layer - first) % period == 0;
  });
}

// A list with an entry for each layer; what it has more belongs to layers that predict
// later tokens.
Verdict each_layer_rule(const Seen& s, const std::function<bool(const json& entry)>& is_moe) {
  if (s.value.is_null()) return {};
  if (!s.value.is_array()) return layer_list(s);
  bool agrees = static_cast<int64_t>(s.value.size()) >= s.layers.num_layers;
  for (int64_t i = 0; agrees && i < s.layers.num_layers; ++i)
    agrees = is_moe(s.value[i]) == s.is_moe(i);
  return agrees_if(agrees, layer_list(s));
}

Verdict types_rule(const Seen& s) {
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
  json list = json::array();
  for (const char kind : s.value.get<std::string>()) list.push_back(std::string(1, kind));
  const JsonTree kinds(std::move(list));
  return each_layer_rule({*kinds, s.config, s.layers}, [](const json& v) { return v == "E"; });
}

Verdict flags_rule(const Seen& s) {
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
  return agrees_if(
      std::ranges::none_of(
          s.value,
          [&](const json& v) { return !v.is_number_integer() || s.is_moe(v.get<int64_t>()); }),
      layer_list(s));
}

Verdict moe_list_rule(const Seen& s) {
  if (s.value.is_null()) return {};
  json object = json::object();
  object["list"] = s.value;
  const JsonTree alone(std::move(object));
  std::vector<int64_t> listed;
  try {
    listed = ConfigReader(*alone, "").integers_of_text_or_list("list");
  } catch (const Error&) {
    return layer_list(s);
  }
  std::erase_if(listed, [&](int64_t layer) { return layer >= s.layers.num_layers; });
  std::ranges::sort(listed);
  return agrees_if(listed == s.layers.moe_layers, layer_list(s));
}

struct KnownKeys {
  std::string_view names;  // separated by spaces
  Rule rule;
};

// Sorted by what they are about.
constexpr KnownKeys kKeys[] = {
    {"scoring_func scoring_function score_func score_function router_score_function "
     "router_activation router_activation_func moe_router_activation "
     "moe_router_activation_func moe_router_score_function expert_selection_fn",
     scoring_rule},
    {"moe_router_use_sigmoid",
     [](auto& s) { return flag_rule(s, s.gate().scoring == Scoring::Sigmoid); }},
    {"topk_method", method_rule},
    {"moe_gate",
     [](auto& s) {
       return text_rule(s, {"topk", "top_k"});
     }},

    {"norm_topk_prob moe_norm_topk_prob moe_renormalize norm_expert_weight "
     "normalize_expert_weights route_norm",
     [](auto& s) {
       return flag_rule(s, s.gate().renormalize || s.gate().scoring == Scoring::SoftmaxOfTopK);
     }},
    {"moe_normalize_expert_weights",  // the exponent of a norm
     [](auto& s) { return number_rule(s, s.gate().renormalize ? 1 : 0); }},
    {"moe_norm_min",
     [](auto& s) {
       return number_rule(s, s.gate().clamp_renormalizer ? s.gate().renormalize_epsilon : 0);
     }},

    {"routed_scaling_factor moe_routed_scaling_factor moe_router_scaling_factor "
     "moe_router_topk_scaling_factor router_scaling_factor route_scale",
     [](auto& s) { return number_rule(s, s.gate().scale, 1); }},

    {"n_group num_expert_group num_expert_groups moe_router_num_groups",
     [](auto& s) { return number_rule(s, s.gate().num_groups, 1); }},
    {"topk_group num_limited_groups moe_router_group_topk",
     [](auto& s) { return number_rule(s, s.gate().num_groups_kept, 1); }},
    {"use_grouped_topk group_limited_greedy", grouped_rule},

    {"use_routing_bias use_moe_router_bias use_router_bias use_expert_bias "
     "moe_use_aux_free moe_router_enable_expert_bias",
     [](auto& s) { return flag_rule(s, s.gate().correction_bias); }},
    {"router_bias", [](auto& s) { return flag_rule(s, s.block().router_bias); }},

    {"moe_router_dtype router_dtype gate_dtype", router_dtype_rule},
    {"need_fp32_gate",
     [](auto& s) { return agrees_if(s.value.is_boolean() || s.value.is_null(), "true"); }},
    {"moe_router_logit_softcapping router_logit_softcapping",
     [](auto& s) { return number_rule(s, s.gate().logit_softcap); }},
    {"router_jitter_noise", jitter_rule},
    {"moe_apply_router_weight_on_input apply_router_weight_on_input",
     [](auto& s) { return flag_rule(s, s.block().router_weight_on_input); }},
    {"num_hash_layers", hashed_rule},

    {"num_experts num_local_experts n_routed_experts num_routed_experts moe_num_experts",
     [](auto& s) { return size_rule(s, &MoeConfig::num_experts); }},
    {"num_experts_per_tok num_experts_per_token experts_per_token moe_topk moe_top_k "
     "moe_k top_k_experts",
     [](auto& s) { return size_rule(s, &MoeConfig::top_k); }},
    {"moe_latent_size routed_expert_hidden_size",
     [](auto& s) { return size_rule(s, [](auto& c) { return c.path.latent; }); }},
    {"latent_moe_use_norm", [](auto& s) { return flag_rule(s, s.block().path.output_norm); }},
    {"zero_expert_num",
     [](auto& s) { return size_rule(s, [](auto& c) { return c.gate.num_zero_experts; }); }},
    {"zero_expert_type", zero_type_rule},

    {"hidden_act hidden_activation mlp_hidden_act moe_hidden_act", activation_rule},
    {"swiglu_limit", [](auto& s) { return number_rule(s, limit_of(s.block().activation)); }},
    {"swiglu_limits", [](auto& s) { return limits_of(s, &MoeConfig::activation); }},
    {"swiglu_limits_shared", [](auto& s) { return limits_of(s, &MoeConfig::shared_activation); }},
    {"swiglu_alpha", alpha_rule},
    {"activation_situ_beta", [](auto& s) { return situ_rule(s, s.block().activation.alpha); }},
    {"activation_situ_linear_beta",
     [](auto& s) { return situ_rule(s, s.block().activation.limit); }},
    {"mlp_bias moe_bias use_bias add_bias_linear",
     [](auto& s) { return flag_rule(s, s.block().expert_bias); }},

    {"n_shared_experts num_shared_experts num_shared_expert moe_num_shared_experts",
     shared_number_rule},
    {"shared_expert_intermediate_size shared_intermediate_size "
     "moe_shared_expert_intermediate_size share_expert_dim share_expert_dims",
     [](auto& s) { return size_rule(s, [](auto& c) { return c.shared.intermediate; }); }},
    {"use_mixed_mlp_moe", [](auto& s) { return flag_rule(s, s.block().shared.intermediate > 0); }},
    {"use_shared_expert_gate",
     [](auto& s) { return flag_rule(s, s.block().shared.sigmoid_gated); }},
    {"shared_expert_sink", [](auto& s) { return flag_rule(s, s.block().shared.num_scored > 0); }},
    {"shared_expert_combination_strategy", combination_rule},

    {"first_k_dense_replace num_dense_layers dense_mlp_idx moe_layer_num_skipped "
     "moe_layer_start_index moe_layer_offset",
     from_layer_rule},
    {"moe_layer_end_index", up_to_layer_rule},
    {"decoder_sparse_step moe_layer_interval interleave_moe_layer_step", every_nth_rule},
    {"moe_every_n_layer", [](auto& s) { return number_rule(s, 1, 1); }},
    {"expert_layer_period", period_rule},
    {"expert_layer_offset", [](auto& s) { return number_rule(s, s.first_layer()); }},
    {"moe_layer_freq", frequency_rule},
    {"is_moe_layer", flags_rule},
    {"mlp_layer_types", types_rule},
    {"layers_block_type layer_types", blocks_rule},
    {"hybrid_override_pattern", pattern_rule},
    {"mlp_only_layers", dense_list_rule},
    {"moe_layers moe_layers_enum", moe_list_rule},
    {"enable_moe_block use_moe", [](auto& s) { return flag_rule(s, true); }},
};

bool is_unread(const FamilyLayers& layers, std::string_view key, const std::string& value) {
  return std::ranges::any_of(layers.unread,
                             [&](const UnreadKey& u) { return u.key == key && u.value == value; });
}

}  // namespace

void check_moe_keys(const ConfigReader& config, std::string_view family,
                    const FamilyLayers& layers) {
  for (const auto& [names, rule] : kKeys)
    for (const auto name : split(names, ' ')) {
      const auto at = config.json().find(name);
      if (at == config.json().end()) continue;
      const std::string value = at->dump();
      const Verdict computed = rule({*at, config.json(), layers});
      SWITCHYARD_REQUIRE(!computed || is_unread(layers, name, value), Unsupported,
                         "checkpoint: ", config.file(), ", ", name, "=", value.substr(0, 60), ", ",
                         family, " computes with ", *computed,
                         ". Use a family that does otherwise, or --config layer.json.");
    }
}

std::vector<std::string_view> moe_keys() {
  std::vector<std::string_view> all;
  for (const auto& [names, rule] : kKeys)
    for (const auto name : split(names, ' ')) all.push_back(name);
  return all;
}

}  // namespace switchyard
