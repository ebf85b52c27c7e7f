// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/config_keys_test.cc -- every family and every key that changes a block's numbers:
// whatever a config says is what is computed, or it is refused. Nothing is silent.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "switchyard/checkpoint.h"
#include "switchyard/error.h"
#include "testing/family_configs.h"
#include "weights/family.h"

namespace switchyard {
namespace {

using nlohmann::json;

FamilyLayers layers_of(const std::string& family, json config) {
  config["model_type"] = family;
  return read_model_config(config, "config.json").layers;
}

std::optional<FamilyLayers> layers_if_read(const std::string& family, const json& config) {
  try {
    return layers_of(family, config);
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find("checkpoint: "), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return {};
  }
}

const MoeConfig& a_block(const FamilyLayers& f) {
  return f.config_of(f.moe_layers.empty() ? 0 : f.moe_layers.back());
}

// ---- what a value says, written again: is it what was read?

using Says = std::function<bool(const json& value, const FamilyLayers& layers)>;

Says number(std::function<double(const MoeConfig&)> of, double none) {
  return [=](const json& v, const FamilyLayers& f) {
    for (const int64_t layer : f.moe_layers) {
      json one = v;
      if (v.is_array() && !v.empty())
        one = static_cast<int64_t>(v.size()) >= f.num_layers ? v[static_cast<size_t>(layer)] : v[0];
      if (!one.is_null() && !one.is_number()) return false;
      const double expected = one.is_null() ? none : one.get<double>();
      if (std::abs(of(f.config_of(layer)) - expected) > 1e-5 * std::abs(expected)) return false;
    }
    return true;
  };
}

Says flag(std::function<bool(const MoeConfig&)> of) {
  return [=](const json& v, const FamilyLayers& f) {
    return (v.is_boolean() || v.is_null()) && (v == true) == of(f.config);
  };
}

Says scoring() {
  return [](const json& v, const FamilyLayers& f) {
    const std::map<Scoring, json> names = {{Scoring::Softmax, "softmax"},
                                           {Scoring::SoftmaxOfTopK, "softmax"},
                                           {Scoring::Sigmoid, "sigmoid"},
                                           {Scoring::SqrtSoftplus, "sqrtsoftplus"}};
    const auto at = names.find(f.config.gate.scoring);
    return at != names.end() && at->second == v;
  };
}

double limit_of(const Activation& a) {
  return a.kind == ActivationKind::ClampedSwiglu || a.kind == ActivationKind::SiluOfClamped ||
                 a.kind == ActivationKind::ClampedSilu
             ? a.limit
             : 0;
}

// One limit for each layer; where there is none, nothing is clamped.
Says limits(std::function<Activation(const MoeConfig&)> of) {
  return [=](const json& v, const FamilyLayers& f) {
    if (!v.is_null() && !v.is_array()) return false;
    for (const int64_t layer : f.moe_layers) {
      const json one =
          static_cast<size_t>(layer) < v.size() ? v[static_cast<size_t>(layer)] : json(0);
      if (!one.is_number() || one.get<double>() != limit_of(of(f.config_of(layer)))) return false;
    }
    return true;
  };
}

// Whether a key that allows some layers allows all that are MoE layers.
Says layers(std::function<bool(int64_t layer, int64_t value)> allows, int64_t none) {
  return [=](const json& v, const FamilyLayers& f) {
    const json& one = v.is_array() && !v.empty() ? v[0] : v;
    if (!one.is_null() && !one.is_number_integer()) return false;
    const int64_t value = one.is_null() ? none : one.get<int64_t>();
    return std::all_of(f.moe_layers.begin(), f.moe_layers.end(),
                       [&](int64_t layer) { return allows(layer, value); });
  };
}

Says list_of_layers(std::function<std::vector<int64_t>(const json&)> listed) {
  return [=](const json& v, const FamilyLayers& f) {
    if (v.is_null()) return true;
    if (!v.is_array() && !v.is_string()) return false;
    return listed(v) == f.moe_layers;
  };
}

std::vector<int64_t> marked(const json& list, const std::set<json>& marks) {
  std::vector<int64_t> all;
  for (size_t i = 0; i < list.size() && i < testing::kFamilyLayers; ++i)
    if (marks.contains(list[i])) all.push_back(static_cast<int64_t>(i));
  return all;
}

bool from(int64_t layer, int64_t first) {
  return layer >= first;
}
bool every_nth(int64_t layer, int64_t n) {
  return n > 0 && (layer + 1) % n == 0;
}

struct KeyGroup {
  std::vector<std::string> keys;
  Says says;
};

std::vector<KeyGroup> gate_groups() {
  return {
      {{"scoring_func", "scoring_function", "score_func", "score_function", "router_score_function",
        "router_activation", "router_activation_func", "moe_router_activation",
        "moe_router_activation_func", "moe_router_score_function", "expert_selection_fn"},
       scoring()},
      {{"moe_router_use_sigmoid"},
       flag([](const MoeConfig& c) { return c.gate.scoring == Scoring::Sigmoid; })},
      {{"topk_method"},
       [](const json& v, const FamilyLayers& f) {
         if (v == "noaux_tc") return f.config.gate.correction_bias;
         if (v == "group_limited_greedy") return f.config.gate.group_score == GroupScore::Max;
         return (v == "greedy" || v == "gready") && !f.config.gate.correction_bias &&
                f.config.gate.num_groups == 1;
       }},
      {{"moe_gate"}, [](const json& v, const FamilyLayers&) { return v == "topk"; }},
      {{"norm_topk_prob", "moe_norm_topk_prob", "moe_renormalize", "norm_expert_weight",
        "normalize_expert_weights", "route_norm"},
       [](const json& v, const FamilyLayers& f) {
         // A softmax of the chosen sums to one as it is: cohere2_moe says either.
         const GateConfig& g = f.config.gate;
         if (g.scoring == Scoring::SoftmaxOfTopK) return v.is_boolean() || v.is_null();
         return v.is_null() ? !g.renormalize : v == g.renormalize;
       }},
      {{"moe_normalize_expert_weights"},
       number([](const MoeConfig& c) { return c.gate.renormalize ? 1 : 0; }, 0)},
      {{"moe_norm_min"},
       number(
           [](const MoeConfig& c) {
             return c.gate.clamp_renormalizer ? c.gate.renormalize_epsilon : 0;
           },
           0)},
      {{"routed_scaling_factor", "moe_routed_scaling_factor", "moe_router_scaling_factor",
        "moe_router_topk_scaling_factor", "router_scaling_factor", "route_scale"},
       number([](const MoeConfig& c) { return c.gate.scale; }, 1)},
      {{"n_group", "num_expert_group", "num_expert_groups", "moe_router_num_groups"},
       number([](const MoeConfig& c) { return c.gate.num_groups; }, 1)},
      {{"topk_group", "num_limited_groups", "moe_router_group_topk"},
       number([](const MoeConfig& c) { return c.gate.num_groups_kept; }, 1)},
      {{"use_grouped_topk", "group_limited_greedy"},
       [](const json& v, const FamilyLayers& f) {
         // True is no more than a group number beside it says; the configs here have one group.
         return (v.is_boolean() || v.is_null()) && f.config.gate.num_groups == 1;
       }},
      {{"use_routing_bias", "use_moe_router_bias", "use_router_bias", "use_expert_bias",
        "moe_use_aux_free", "moe_router_enable_expert_bias"},
       flag([](const MoeConfig& c) { return c.gate.correction_bias; })},
      {{"router_bias"}, flag([](const MoeConfig& c) { return c.router_bias; })},
      {{"moe_router_dtype", "router_dtype", "gate_dtype"},
       [](const json& v, const FamilyLayers&) { return v.is_null() || v == "float32"; }},
      {{"need_fp32_gate"},
       [](const json& v, const FamilyLayers&) { return v.is_null() || v.is_boolean(); }},
      {{"moe_router_logit_softcapping", "router_logit_softcapping"},
       number([](const MoeConfig& c) { return c.gate.logit_softcap; }, 0)},
      {{"router_jitter_noise"},
       [](const json& v, const FamilyLayers& f) {
         if (f.config.gate.scoring != Scoring::SparseMixer) return v.is_null() || v.is_number();
         return v.is_number() && v.get<float>() == f.config.gate.jitter_epsilon;
       }},
      {{"moe_apply_router_weight_on_input", "apply_router_weight_on_input"},
       flag([](const MoeConfig& c) { return c.router_weight_on_input; })},
      {{"num_hash_layers"},
       [](const json& v, const FamilyLayers& f) {
         const auto hashed =
             std::count_if(f.moe_layers.begin(), f.moe_layers.end(),
                           [&](int64_t layer) { return f.config_of(layer).gate.vocabulary > 0; });
         return v.is_null() ? hashed == 0
                            : v.is_number() && std::min(v.get<double>(), 4.0) == double(hashed);
       }},
  };
}

std::vector<KeyGroup> size_groups() {
  return {
      {{"num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts",
        "moe_num_experts"},
       number([](const MoeConfig& c) { return c.num_experts; }, 0)},
      {{"num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk",
        "moe_top_k", "moe_k", "top_k_experts"},
       number([](const MoeConfig& c) { return c.top_k; }, 0)},
      {{"moe_latent_size", "routed_expert_hidden_size"},
       number([](const MoeConfig& c) { return c.path.latent; }, 0)},
      {{"latent_moe_use_norm"}, flag([](const MoeConfig& c) { return c.path.output_norm; })},
      {{"zero_expert_num"}, number([](const MoeConfig& c) { return c.gate.num_zero_experts; }, 0)},
      {{"zero_expert_type"},
       [](const json& v, const FamilyLayers& f) {
         return v == "identity" || (v.is_null() && f.config.gate.num_zero_experts == 0);
       }},
      {{"hidden_act", "hidden_activation", "mlp_hidden_act", "moe_hidden_act"},
       [](const json& v, const FamilyLayers& f) {
         const ActivationKind kind = a_block(f).activation.kind;
         const std::map<ActivationKind, std::set<json>> names = {
             {ActivationKind::SiluGated, {"silu"}},
             {ActivationKind::SiluOfClamped, {"silu"}},
             {ActivationKind::ClampedSilu, {"silu"}},
             {ActivationKind::GeluGated, {"gelu"}},
             {ActivationKind::GeluTanhGated, {"gelu_pytorch_tanh"}},
             {ActivationKind::ClampedSwiglu, {"swigluoai"}},
             {ActivationKind::Relu2, {"relu2"}},
             {ActivationKind::Situ, {"situ"}}};
         return names.at(kind).contains(v);
       }},
      {{"swiglu_limit"}, number([](const MoeConfig& c) { return limit_of(c.activation); }, 0)},
      {{"swiglu_limits"}, limits([](const MoeConfig& c) { return c.activation; })},
      {{"swiglu_limits_shared"}, limits([](const MoeConfig& c) { return c.shared_activation(); })},
      {{"swiglu_alpha"},
       [](const json& v, const FamilyLayers& f) {
         const Activation& a = f.config.activation;
         return a.kind == ActivationKind::ClampedSwiglu
                    ? v.is_number() && std::abs(v.get<float>() - a.alpha) < 1e-5f
                    : v.is_null();
       }},
      {{"activation_situ_beta", "activation_situ_linear_beta"},
       [](const json& v, const FamilyLayers& f) {
         const Activation& a = f.config.activation;
         return a.kind == ActivationKind::Situ
                    ? v.is_number() && (v.get<float>() == a.alpha || v.get<float>() == a.limit)
                    : v.is_null();
       }},
      {{"mlp_bias", "moe_bias", "use_bias", "add_bias_linear"},
       flag([](const MoeConfig& c) { return c.expert_bias; })},
  };
}

std::vector<KeyGroup> shared_groups() {
  return {
      {{"n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"},
       number([](const MoeConfig& c) { return c.shared.intermediate / c.intermediate; }, 0)},
      {{"shared_expert_intermediate_size", "shared_intermediate_size",
        "moe_shared_expert_intermediate_size", "share_expert_dim", "share_expert_dims"},
       number([](const MoeConfig& c) { return c.shared.intermediate; }, 0)},
      {{"use_mixed_mlp_moe"}, flag([](const MoeConfig& c) { return c.shared.intermediate > 0; })},
      {{"use_shared_expert_gate"}, flag([](const MoeConfig& c) { return c.shared.sigmoid_gated; })},
      {{"shared_expert_sink"}, flag([](const MoeConfig& c) { return c.shared.num_scored > 0; })},
      {{"shared_expert_combination_strategy"},
       [](const json& v, const FamilyLayers& f) {
         const bool shared = f.config.shared.intermediate > 0;
         return (v == "average" && (!shared || f.down_factor == 0.5f)) ||
                (v == "sum" && f.down_factor == 1);
       }},
  };
}

std::vector<KeyGroup> layer_groups() {
  return {
      {{"first_k_dense_replace", "num_dense_layers", "dense_mlp_idx", "moe_layer_num_skipped",
        "moe_layer_start_index", "moe_layer_offset"},
       layers(from, 0)},
      {{"moe_layer_end_index"},
       layers([](int64_t layer, int64_t last) { return last == -1 || layer <= last; }, -1)},
      {{"decoder_sparse_step", "moe_layer_interval", "interleave_moe_layer_step"},
       layers(every_nth, 1)},
      {{"moe_every_n_layer"}, number([](const MoeConfig&) { return 1; }, 1)},
      {{"expert_layer_period"},
       [](const json& v, const FamilyLayers& f) {
         const int64_t first = f.moe_layers.empty() ? 0 : f.moe_layers.front();
         return layers(
             [first](int64_t layer, int64_t n) { return n > 0 && (layer - first) % n == 0; }, 1)(v,
                                                                                                 f);
       }},
      {{"expert_layer_offset"},
       [](const json& v, const FamilyLayers& f) {
         const int64_t first = f.moe_layers.empty() ? 0 : f.moe_layers.front();
         return v.is_null() ? first == 0 : v.is_number() && v.get<double>() == double(first);
       }},
      {{"moe_layer_freq"},
       [](const json& v, const FamilyLayers& f) {
         if (v.is_array()) return marked(v, {1, 2, 3, true}) == f.moe_layers && v.size() >= 4;
         return layers([](int64_t layer, int64_t n) { return n > 0 && layer % n == 0; }, 1)(v, f);
       }},
      {{"is_moe_layer"}, list_of_layers([](const json& v) {
         return marked(v, {1, 2, 3, true});
       })},
      {{"mlp_layer_types"}, list_of_layers([](const json& v) {
         return marked(v, {"sparse", "moe", "hash_moe"});
       })},
      {{"layers_block_type", "layer_types"},
       [](const json& v, const FamilyLayers& f) {
         const auto named = v.is_array() ? marked(v, {"moe"}) : std::vector<int64_t>();
         return named.empty() || named == f.moe_layers;
       }},
      {{"hybrid_override_pattern"},
       [](const json& v, const FamilyLayers& f) {
         if (v.is_null()) return true;
         if (!v.is_string()) return false;
         std::vector<int64_t> named;
         const auto text = v.get<std::string>();
         for (size_t i = 0; i < text.size(); ++i)
           if (text[i] == 'E') named.push_back(static_cast<int64_t>(i));
         return named == f.moe_layers;
       }},
      {{"mlp_only_layers"},
       [](const json& v, const FamilyLayers& f) {
         if (v.is_null()) return true;
         return v.is_array() && std::none_of(v.begin(), v.end(), [&](const json& layer) {
                  return !layer.is_number_integer() ||
                         std::count(f.moe_layers.begin(), f.moe_layers.end(), layer.get<int64_t>());
                });
       }},
      {{"moe_layers", "moe_layers_enum"}, list_of_layers([](const json& v) {
         std::vector<int64_t> all;
         if (v.is_string()) return v == "1,3" ? std::vector<int64_t>{1, 3} : all;
         for (const auto& layer : v)
           if (layer.is_number_integer() && layer < testing::kFamilyLayers) all.push_back(layer);
         std::sort(all.begin(), all.end());
         return all;
       })},
      {{"enable_moe_block", "use_moe"},
       [](const json& v, const FamilyLayers&) { return v == true; }},
  };
}

std::map<std::string, Says> meanings() {
  std::map<std::string, Says> all;
  for (const auto& groups : {gate_groups(), size_groups(), shared_groups(), layer_groups()})
    for (const auto& group : groups)
      for (const auto& key : group.keys) all[key] = group.says;
  return all;
}

// Values of every kind; most are wrong for most keys.
std::vector<json> tried_values() {
  return {json(),
          true,
          false,
          0,
          1,
          2,
          3,
          8,
          -1,
          0.01,
          1.5,
          2.5,
          1.702,
          7.0,
          25.0,
          1e300,
          "",
          "softmax",
          "sigmoid",
          "sqrtsoftplus",
          "noaux_tc",
          "greedy",
          "group_limited_greedy",
          "topk",
          "silu",
          "gelu",
          "relu2",
          "swigluoai",
          "situ",
          "identity",
          "sum",
          "average",
          "float32",
          "float16",
          "1,3",
          "ME*E",
          "EEEE",
          json::array(),
          json{1, 3},
          json{0},
          json{0, 1, 0, 1},
          json{1, 1, 1, 1},
          json{2, 2, 2, 2},
          json{3, 2, 2, 2},
          json{false, true, true, true},
          json{"dense", "sparse", "sparse", "sparse"},
          json{"sparse", "sparse", "sparse", "sparse"},
          json{"attention", "moe", "attention", "moe"},
          json::object()};
}

// Published so, and not read by the published code.
bool is_known_exception(const std::string& family, const std::string& key, const json& value) {
  if (key == "hidden_act" && value == "silu")
    return family == "gpt_oss" || family.starts_with("minimax_m3");
  if (key == "scoring_func" && value == "noaux_tc") return family == "dots1";
  if (family == "deepseek_v2" && value.is_number_integer() && value > 0)
    return key == "n_group" || key == "topk_group";  // of the greedy method
  return family == "hunyuan_v1_moe" && (key == "n_group" || key == "topk_group") && value == false;
}

// Numbers that the published code has where a config has none.
TEST(Defaults, AreThoseOfThePublishedCode) {
  const auto configs = testing::family_configs();
  const FamilyLayers capped = layers_of("laguna", configs.at("laguna"));
  EXPECT_EQ(capped.config.gate.logit_softcap, 0);
  EXPECT_EQ(capped.config.gate.scale, 1);
  json situ = configs.at("kimi_k3");
  situ.erase("activation_situ_beta"), situ.erase("activation_situ_linear_beta");
  const Activation act = layers_of("kimi_k3", situ).config.activation;
  EXPECT_EQ(act.kind, ActivationKind::Situ);
  EXPECT_EQ(act.alpha, 4);
  EXPECT_EQ(act.limit, 25);
}

class EveryFamily : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, EveryFamily, ::testing::ValuesIn(known_families()),
                         [](const auto& info) { return info.param; });

TEST_P(EveryFamily, SaysWhatItComputesOrRefuses) {
  const auto configs = testing::family_configs();
  ASSERT_TRUE(configs.contains(GetParam())) << "it has no config here";
  const json& base = configs.at(GetParam());
  ASSERT_TRUE(layers_if_read(GetParam(), base)) << GetParam();
  const auto says = meanings();
  for (const auto key : moe_keys())
    for (const json& value : tried_values()) {
      json config = base;
      config[std::string(key)] = value;
      const auto layers = layers_if_read(GetParam(), config);
      if (!layers || is_known_exception(GetParam(), std::string(key), value)) continue;
      EXPECT_TRUE(says.at(std::string(key))(value, *layers))
          << GetParam() << ", " << key << "=" << value << " is read, but not obeyed";
    }
}

// A wrapper's own keys count as those of the text model.
TEST_P(EveryFamily, RefusesTheSameBesideANestedConfig) {
  json text = testing::family_configs().at(GetParam());
  text["model_type"] = GetParam();
  json outer = {{"model_type", "a_wrapper"}, {"text_config", text}};
  ASSERT_NO_THROW(read_model_config(outer, "config.json"));
  outer["routed_scaling_factor"] = 17.5;
  EXPECT_THROW(read_model_config(outer, "config.json"), Error);
}

TEST(MoeKeys, AllHaveAMeaningHere) {
  const auto says = meanings();
  for (const auto key : moe_keys()) EXPECT_TRUE(says.contains(std::string(key))) << key;
  EXPECT_EQ(says.size(), moe_keys().size());
}

TEST(MoeKeys, ARefusalNamesKeyValueAndWhatIsComputed) {
  json config = testing::family_configs().at("qwen3_moe");
  config["routed_scaling_factor"] = 2.5;
  try {
    layers_of("qwen3_moe", config);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_NE(std::string(e.what()).find(
                  "routed_scaling_factor=2.5, qwen3_moe computes with 1. Use a family"),
              std::string::npos)
        << e.what();
  }
}

// Null is none of it, absent is the family's own default.
TEST(MoeKeys, NullIsNoneAndAbsentIsTheFamilysDefault) {
  json config = testing::family_configs().at("deepseek_v3");
  EXPECT_EQ(layers_of("deepseek_v3", config).config.gate.scale, 2.5f);
  EXPECT_EQ(layers_of("deepseek_v3", config).moe_layers, (std::vector<int64_t>{3}));
  config.update({{"routed_scaling_factor", nullptr},
                 {"n_shared_experts", nullptr},
                 {"n_group", nullptr},
                 {"topk_group", nullptr},
                 {"first_k_dense_replace", nullptr},
                 {"norm_topk_prob", nullptr}});
  const FamilyLayers none = layers_of("deepseek_v3", config);
  EXPECT_EQ(none.config.gate.scale, 1);
  EXPECT_EQ(none.config.shared.intermediate, 0);
  EXPECT_EQ(none.config.gate.num_groups, 1);
  EXPECT_FALSE(none.config.gate.renormalize);
  EXPECT_EQ(none.moe_layers.size(), 4u);
  for (const char* key : {"scoring_func", "hidden_act"}) {
    json bad = config;
    bad[key] = nullptr;
    EXPECT_FALSE(layers_if_read("deepseek_v3", bad)) << key;
  }
}

bool share_a_router_name(const FamilyLayers& a, const FamilyLayers& b) {
  for (const auto& mine : a.forms)
    for (const auto& theirs : b.forms)
      if (mine.router == theirs.router) return true;
  return false;
}

TEST(MoeKeys, ArchitecturesOfAnotherFamilyAreRefusedWhereItsTensorsAreCalledAlike) {
  int num_refused = 0;
  for (const auto& family : known_families()) {
    json config = testing::family_configs().at(family);
    for (const auto& [architecture, other] :
         {std::pair{"DeepseekV3ForCausalLM", "deepseek_v3"}, {"MixtralForCausalLM", "mixtral"}}) {
      config["architectures"] = {architecture};
      const bool same =
          family == other || (family == "kimi_k2" && other == std::string("deepseek_v3"));
      const bool apart =
          !share_a_router_name(*layers_if_read(family, testing::family_configs().at(family)),
                               *layers_if_read(other, testing::family_configs().at(other)));
      const bool read = layers_if_read(family, config).has_value();
      // Where the other family cannot even be described from this config, nothing tells them apart.
      EXPECT_TRUE(same ? read : apart || !read) << family << ", " << architecture;
      num_refused += !read;
    }
    config["architectures"] = {"SomethingNewForCausalLM"};
    EXPECT_TRUE(layers_if_read(family, config)) << family;
    config["architectures"] = 7;
    EXPECT_FALSE(layers_if_read(family, config)) << family;
  }
  EXPECT_GT(num_refused, 60);
  // Whose tensors are called otherwise: what the file holds decides, model_type is obeyed.
  json jamba = testing::family_configs().at("jamba");
  jamba["architectures"] = {"Qwen3MoeForCausalLM"};
  EXPECT_TRUE(layers_if_read("jamba", jamba));
}

TEST(MoeKeys, TheOuterModelTypeDecidesWhereItIsKnown) {
  json text = testing::family_configs().at("minimax_m3");
  text["model_type"] = "minimax_m2";
  const json outer = {{"model_type", "minimax_m3_vl"}, {"text_config", text}};
  const auto model = read_model_config(outer, "config.json");
  EXPECT_EQ(model.family, "minimax_m3_vl");
  EXPECT_EQ(model.layers.config.shared.intermediate, testing::kFamilyInner);

  json thinker = testing::family_configs().at("qwen3_omni_moe");
  thinker["model_type"] = "qwen3_omni_moe_text";
  const json omni = {
      {"model_type", "qwen3_omni_moe"},
      {"thinker_config", {{"model_type", "qwen3_omni_moe_thinker"}, {"text_config", thinker}}}};
  EXPECT_EQ(read_model_config(omni, "config.json").layers.module,
            "thinker.model.language_model.layers.{layer}.mlp");
}

}  // namespace
}  // namespace switchyard
