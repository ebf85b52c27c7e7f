// src/weights/by_hand.cc -- layer.json: a layer of a family that nobody taught us.
// docs/checkpoints.md has the format.
#include <array>
#include <cmath>

#include "base/require.h"
#include "weights/family_parts.h"

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
};

Scoring scoring_from(const std::string& name) {
  std::string known;
  for (const auto& s : kScoringNames) {
    if (s.name == name) return s.scoring;
    known += cat(known.empty() ? "" : ", ", s.name);
  }
  throw Error(Errc::BadFile, cat("checkpoint: gate.scoring=", name, ", known are ", known, "."));
}

GroupScore group_score_from(const std::string& name) {
  SWITCHYARD_REQUIRE(name == "max" || name == "top2_sum", BadFile,
                     "checkpoint: gate.group_score=", name, ", known are max, top2_sum.");
  return name == "max" ? GroupScore::Max : GroupScore::Top2Sum;
}

GateConfig gate_from(const ConfigReader& gate) {
  gate.refuse_unknown({"scoring", "renormalize", "renormalize_epsilon", "clamp_renormalizer",
                       "scale", "correction_bias", "num_groups", "num_groups_kept", "group_score",
                       "jitter_epsilon"});
  GateConfig g;
  g.scoring = scoring_from(gate.text_or({"scoring"}, "softmax"));
  g.renormalize = gate.boolean_or({"renormalize"}, false);
  g.renormalize_epsilon = static_cast<float>(gate.number_or({"renormalize_epsilon"}, 0));
  g.clamp_renormalizer = gate.boolean_or({"clamp_renormalizer"}, false);
  g.scale = static_cast<float>(gate.number_or({"scale"}, 1));
  g.correction_bias = gate.boolean_or({"correction_bias"}, false);
  g.num_groups = gate.integer_or({"num_groups"}, 1);
  g.num_groups_kept = gate.integer_or({"num_groups_kept"}, 1);
  g.group_score = group_score_from(gate.text_or({"group_score"}, "top2_sum"));
  g.jitter_epsilon = static_cast<float>(gate.number_or({"jitter_epsilon"}, 0.01));
  return g;
}

TensorNames names_from(const ConfigReader& tensors) {
  tensors.refuse_unknown({"router", "router_bias", "correction_bias", "expert_gate", "expert_up",
                          "expert_down", "fused_gate_up", "fused_down", "fused_gate_up_bias",
                          "fused_down_bias", "fused_transposed", "fused_interleaved", "shared_gate",
                          "shared_up", "shared_down", "shared_expert_gate"});
  TensorNames n;
  n.router = tensors.text({"router"});
  n.router_bias = tensors.text_or({"router_bias"}, "");
  n.correction_bias = tensors.text_or({"correction_bias"}, "");
  n.expert_gate = tensors.text_or({"expert_gate"}, "");
  n.expert_up = tensors.text_or({"expert_up"}, "");
  n.expert_down = tensors.text_or({"expert_down"}, "");
  n.fused_gate_up = tensors.text_or({"fused_gate_up"}, "");
  n.fused_down = tensors.text_or({"fused_down"}, "");
  n.fused_gate_up_bias = tensors.text_or({"fused_gate_up_bias"}, "");
  n.fused_down_bias = tensors.text_or({"fused_down_bias"}, "");
  if (tensors.boolean_or({"fused_transposed"}, false)) n.fused = Fused::Transposed;
  n.fused_interleaved = tensors.boolean_or({"fused_interleaved"}, false);
  n.shared_gate = tensors.text_or({"shared_gate"}, "");
  n.shared_up = tensors.text_or({"shared_up"}, "");
  n.shared_down = tensors.text_or({"shared_down"}, "");
  n.shared_expert_gate = tensors.text_or({"shared_expert_gate"}, "");
  return n;
}

}  // namespace

FamilyLayers describe_by_hand(const ConfigReader& layer) {
  layer.refuse_unknown({"hidden", "intermediate", "num_experts", "top_k", "activation",
                        "activation_alpha", "activation_limit", "gate", "shared_intermediate",
                        "shared_sigmoid_gated", "expert_bias", "router_bias",
                        "router_weight_on_input", "num_layers", "moe_layers", "module", "tensors"});
  FamilyLayers f;
  MoeConfig& c = f.config;
  c.hidden = layer.integer({"hidden"});
  c.intermediate = layer.integer({"intermediate"});
  c.num_experts = layer.integer({"num_experts"});
  c.top_k = layer.integer({"top_k"});
  c.activation = activation_from_name(layer.text_or({"activation"}, "silu"));
  c.activation.alpha =
      static_cast<float>(layer.number_or({"activation_alpha"}, c.activation.alpha));
  c.activation.limit =
      static_cast<float>(layer.number_or({"activation_limit"}, c.activation.limit));
  if (const auto gate = layer.object({"gate"})) c.gate = gate_from(*gate);
  c.shared = {layer.integer_or({"shared_intermediate"}, 0),
              layer.boolean_or({"shared_sigmoid_gated"}, false)};
  c.expert_bias = layer.boolean_or({"expert_bias"}, false);
  c.router_bias = layer.boolean_or({"router_bias"}, false);
  c.router_weight_on_input = layer.boolean_or({"router_weight_on_input"}, false);

  f.num_layers = num_layers_of(layer);
  f.moe_layers = layer.integers_or_none({"moe_layers"});
  if (f.moe_layers.empty()) f.moe_layers = layers_from(0, f.num_layers);
  f.module = layer.text_or({"module"}, f.module);
  const auto tensors = layer.object({"tensors"});
  SWITCHYARD_REQUIRE(tensors.has_value(), BadFile,
                     "checkpoint: layer.json has no object `tensors`. It names them.");
  f.forms = {names_from(*tensors)};
  f.names_are_whole = true;
  return f;
}

}  // namespace switchyard
