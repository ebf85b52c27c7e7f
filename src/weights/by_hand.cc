// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/by_hand.cc -- layer.json: a layer of a family that is not in the list.
// docs/guide/checkpoints.md has the format.
#include <array>

#include "weights/family_parts.h"
#include "weights/text.h"

namespace switchyard {
namespace {

struct ScoringName {
  std::string_view name;
  Scoring scoring;
};
constexpr std::array kScoringNames = {
    ScoringName{"softmax", Scoring::Softmax},
    ScoringName{"softmax_of_top_k", Scoring::SoftmaxOfTopK},
    ScoringName{"sigmoid", Scoring::Sigmoid},
    ScoringName{"sparse_mixer", Scoring::SparseMixer},
    ScoringName{"sqrt_softplus", Scoring::SqrtSoftplus},
};

Scoring scoring_from(const std::string& name) {
  std::vector<std::string_view> known;
  for (const auto& s : kScoringNames) {
    if (s.name == name) return s.scoring;
    known.push_back(s.name);
  }
  throw Error(Errc::BadFile,
              cat("checkpoint: gate.scoring=", name, ", known are ", joined(known), "."));
}

GroupScore group_score_from(const std::string& name) {
  SWITCHYARD_REQUIRE(name == "max" || name == "top2_sum", BadFile,
                     "checkpoint: gate.group_score=", name, ", known are max, top2_sum.");
  return name == "max" ? GroupScore::Max : GroupScore::Top2Sum;
}

GateConfig gate_from(const ConfigReader& gate) {
  gate.refuse_unknown(
      split("scoring renormalize renormalize_epsilon clamp_renormalizer scale correction_bias "
            "num_groups num_groups_kept group_score jitter_epsilon logit_softcap vocabulary "
            "num_zero_experts expert_scale rms_of_hidden",
            ' '));
  GateConfig g;
  g.scoring = scoring_from(gate.text_or({"scoring"}, "softmax"));
  g.renormalize = gate.boolean_or({"renormalize"}, false);
  g.renormalize_epsilon = gate.float_or({"renormalize_epsilon"}, 0);
  g.clamp_renormalizer = gate.boolean_or({"clamp_renormalizer"}, false);
  g.scale = gate.float_or({"scale"}, 1);
  g.correction_bias = gate.boolean_or({"correction_bias"}, false);
  g.num_groups = gate.integer_or({"num_groups"}, 1);
  g.num_groups_kept = gate.integer_or({"num_groups_kept"}, 1);
  g.group_score = group_score_from(gate.text_or({"group_score"}, "top2_sum"));
  g.jitter_epsilon = gate.float_or({"jitter_epsilon"}, 0.01);
  g.logit_softcap = gate.float_or({"logit_softcap"}, 0);
  g.vocabulary = gate.integer_or({"vocabulary"}, 0);
  g.num_zero_experts = gate.integer_or({"num_zero_experts"}, 0);
  g.expert_scale = gate.boolean_or({"expert_scale"}, false);
  g.rms_of_hidden = gate.boolean_or({"rms_of_hidden"}, false);
  return g;
}

struct NamedText {
  const char* key;
  std::string TensorNames::*name;
};
constexpr std::array kTensorKeys = {
    NamedText{"router", &TensorNames::router},
    NamedText{"router_scale", &TensorNames::router_scale},
    NamedText{"router_bias", &TensorNames::router_bias},
    NamedText{"correction_bias", &TensorNames::correction_bias},
    NamedText{"expert_scale", &TensorNames::expert_scale},
    NamedText{"global_scale", &TensorNames::global_scale},
    NamedText{"token_experts", &TensorNames::token_experts},
    NamedText{"expert_gate", &TensorNames::expert_gate},
    NamedText{"expert_up", &TensorNames::expert_up},
    NamedText{"expert_down", &TensorNames::expert_down},
    NamedText{"fused_gate_up", &TensorNames::fused_gate_up},
    NamedText{"stacked_gate", &TensorNames::stacked_gate},
    NamedText{"stacked_up", &TensorNames::stacked_up},
    NamedText{"fused_down", &TensorNames::fused_down},
    NamedText{"fused_gate_up_bias", &TensorNames::fused_gate_up_bias},
    NamedText{"fused_down_bias", &TensorNames::fused_down_bias},
    NamedText{"shared_gate", &TensorNames::shared_gate},
    NamedText{"shared_up", &TensorNames::shared_up},
    NamedText{"shared_down", &TensorNames::shared_down},
    NamedText{"shared_gate_up", &TensorNames::shared_gate_up},
    NamedText{"shared_expert_gate", &TensorNames::shared_expert_gate},
    NamedText{"input_norm", &TensorNames::input_norm},
    NamedText{"path_down", &TensorNames::path_down},
    NamedText{"output_norm", &TensorNames::output_norm},
    NamedText{"path_up", &TensorNames::path_up},
};

TensorNames names_from(const ConfigReader& tensors) {
  std::vector<std::string_view> known = {"router_transposed", "fused_transposed",
                                         "fused_interleaved", "shared_interleaved"};
  TensorNames n;
  for (const auto& key : kTensorKeys) {
    n.*key.name = tensors.text_or({key.key}, "");
    known.push_back(key.key);
  }
  tensors.refuse_unknown(known);
  SWITCHYARD_REQUIRE(!n.router.empty(), BadFile, "checkpoint: ", tensors.file(),
                     ", tensors.router=nothing, every layer has a router. Name it.");
  n.router_transposed = tensors.boolean_or({"router_transposed"}, false);
  if (tensors.boolean_or({"fused_transposed"}, false)) n.fused = Fused::Transposed;
  n.fused_interleaved = tensors.boolean_or({"fused_interleaved"}, false);
  n.shared_interleaved = tensors.boolean_or({"shared_interleaved"}, false);
  return n;
}

// The activation under `prefix`, as "activation", "activation_alpha", "activation_limit".
Activation activation_from(const ConfigReader& layer, const std::string& prefix,
                           const std::string& absent) {
  const std::string name = prefix + "activation", alpha = name + "_alpha", limit = name + "_limit";
  Activation a = activation_of(layer, {name.c_str()}, absent);
  a.alpha = layer.float_or({alpha.c_str()}, a.alpha);
  a.limit = layer.float_or({limit.c_str()}, a.limit);
  return a;
}

SharedExpertConfig shared_from(const ConfigReader& layer) {
  SharedExpertConfig s;
  s.intermediate = layer.integer_or({"shared_intermediate"}, 0);
  s.sigmoid_gated = layer.boolean_or({"shared_sigmoid_gated"}, false);
  s.num_scored = layer.integer_or({"shared_num_scored"}, 0);
  if (layer.has({"shared_activation"})) s.activation = activation_from(layer, "shared_", "silu");
  return s;
}

RoutedPathConfig path_from(const ConfigReader& layer) {
  RoutedPathConfig p;
  p.input_norm = layer.boolean_or({"input_norm"}, false);
  p.latent = layer.integer_or({"latent"}, 0);
  p.output_norm = layer.boolean_or({"output_norm"}, false);
  p.norm_epsilon = layer.float_or({"norm_epsilon"}, p.norm_epsilon);
  return p;
}

MoeConfig config_from(const ConfigReader& layer) {
  MoeConfig c;
  c.hidden = layer.integer({"hidden"});
  c.intermediate = layer.integer({"intermediate"});
  c.num_experts = layer.integer({"num_experts"});
  c.top_k = layer.integer({"top_k"});
  c.activation = activation_from(layer, "", "silu");
  if (const auto gate = layer.object({"gate"})) c.gate = gate_from(*gate);
  c.shared = shared_from(layer);
  c.path = path_from(layer);
  c.expert_bias = layer.boolean_or({"expert_bias"}, false);
  c.router_bias = layer.boolean_or({"router_bias"}, false);
  c.router_weight_on_input = layer.boolean_or({"router_weight_on_input"}, false);
  return c;
}

}  // namespace

FamilyLayers describe_by_hand(const ConfigReader& layer) {
  layer.refuse_unknown(
      split("hidden intermediate num_experts top_k activation activation_alpha activation_limit "
            "gate shared_intermediate shared_sigmoid_gated shared_num_scored shared_activation "
            "shared_activation_alpha shared_activation_limit input_norm latent output_norm "
            "norm_epsilon expert_bias router_bias router_weight_on_input down_factor num_layers "
            "moe_layers module tensors left_out quantization_config",
            ' '));
  FamilyLayers f;
  f.config = config_from(layer);
  f.down_factor = layer.float_or({"down_factor"}, 1);
  f.num_layers = num_layers_of(layer);
  f.moe_layers = layer.integers_or_none({"moe_layers"});
  if (!layer.has({"moe_layers"})) f.moe_layers = layers_from(0, f.num_layers);
  f.module = layer.text_or({"module"}, f.module);
  const auto tensors = layer.object({"tensors"});
  SWITCHYARD_REQUIRE(tensors.has_value(), BadFile, "checkpoint: ", layer.file(),
                     ", has no object `tensors`. It names them.");
  f.forms = {names_from(*tensors)};
  f.config.router_f32 = !f.forms.front().router_scale.empty();
  f.names_are_whole = true;
  f.left_out = layer.texts_or_none({"left_out"});
  return f;
}

}  // namespace switchyard
