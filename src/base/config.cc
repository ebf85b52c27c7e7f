// src/base/config.cc -- names and rules of MoeConfig.
#include "switchyard/config.h"

#include <array>
#include <cmath>

#include "base/require.h"

namespace switchyard {
namespace {

struct ActivationName {
  std::string_view name;
  ActivationKind kind;
};

// The first name of a kind is the canonical one.
constexpr std::array kActivationNames = {
    ActivationName{"silu", ActivationKind::SiluGated},
    ActivationName{"SiGLU", ActivationKind::SiluGated},
    ActivationName{"swiglu", ActivationKind::SiluGated},
    ActivationName{"gelu", ActivationKind::GeluGated},
    ActivationName{"gelu_tanh", ActivationKind::GeluTanhGated},
    ActivationName{"gelu_pytorch_tanh", ActivationKind::GeluTanhGated},
    ActivationName{"clamped_swiglu", ActivationKind::ClampedSwiglu},
    ActivationName{"swigluoai", ActivationKind::ClampedSwiglu},
    ActivationName{"relu2", ActivationKind::Relu2},
};

// Sizes far beyond any model, small enough that products of three fit 63 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;

void check_width(const char* name, int64_t value) {
  SWITCHYARD_REQUIRE(value > 0 && value <= kMaxWidth, ShapeMismatch, "config: ", name, "=", value,
                     ", need 1 to ", kMaxWidth, ". Check the layer's description.");
  SWITCHYARD_REQUIRE(
      value % 8 == 0, Misaligned, "config: ", name, "=", value,
      ", need a multiple of 8 (rows are copied as 16-byte vectors of bf16). Pad the weights.");
}

void check_groups(const MoeConfig& c) {
  const GateConfig& g = c.gate;
  SWITCHYARD_REQUIRE(g.num_groups >= 1 && c.num_experts % g.num_groups == 0, ShapeMismatch,
                     "config: num_groups=", g.num_groups, ", must divide E=", c.num_experts, ".");
  SWITCHYARD_REQUIRE(g.num_groups_kept >= 1 && g.num_groups_kept <= g.num_groups, ShapeMismatch,
                     "config: num_groups_kept=", g.num_groups_kept,
                     ", need 1 to num_groups=", g.num_groups, ".");
  const int64_t choice = c.num_experts / g.num_groups * g.num_groups_kept;
  SWITCHYARD_REQUIRE(c.top_k <= choice, ShapeMismatch, "config: top_k=", c.top_k, ", the ",
                     g.num_groups_kept, " kept groups have ", choice,
                     " experts. Keep more groups.");
  const bool scores_before_choice = g.scoring == Scoring::Softmax || g.scoring == Scoring::Sigmoid;
  SWITCHYARD_REQUIRE(
      (g.num_groups == 1 && !g.correction_bias) || scores_before_choice, Unsupported,
      "config: groups and correction_bias need softmax or sigmoid scores over all experts.");
}

void check_gate(const MoeConfig& c) {
  const GateConfig& g = c.gate;
  check_groups(c);
  SWITCHYARD_REQUIRE(std::isfinite(g.scale), ShapeMismatch, "config: gate scale=", g.scale,
                     ", must be finite.");
  SWITCHYARD_REQUIRE(std::isfinite(g.renormalize_epsilon) && g.renormalize_epsilon >= 0,
                     ShapeMismatch, "config: renormalize_epsilon=", g.renormalize_epsilon,
                     ", must be finite and not negative.");
  SWITCHYARD_REQUIRE(g.scoring != Scoring::SparseMixer || (c.top_k == 2 && g.jitter_epsilon >= 0),
                     Unsupported, "config: top_k=", c.top_k,
                     ", the sparse mixer chooses exactly 2 experts.");
  SWITCHYARD_REQUIRE(!c.router_weight_on_input || (g.scoring == Scoring::Sigmoid && c.top_k == 1),
                     Unsupported, "config: router_weight_on_input with top_k=", c.top_k,
                     ", only a sigmoid top-1 gate puts its weight on the input. Leave it off.");
}

}  // namespace

Activation activation_from_name(std::string_view name) {
  std::string accepted;
  for (const auto& a : kActivationNames) {
    if (a.name == name) return {.kind = a.kind};
    accepted += cat(accepted.empty() ? "" : ", ", a.name);
  }
  throw Error(Errc::Unsupported,
              cat("activation: name=", name, ", accepted are ", accepted, ". Use one of these."));
}

const char* activation_name(ActivationKind kind) noexcept {
  for (const auto& a : kActivationNames)
    if (a.kind == kind) return a.name.data();
  return "unknown";
}

void validate(const MoeConfig& c) {
  check_width("hidden", c.hidden);
  check_width("intermediate", c.intermediate);
  SWITCHYARD_REQUIRE(c.num_experts >= 1 && c.num_experts <= kMaxExperts, ShapeMismatch,
                     "config: num_experts=", c.num_experts, ", need 1 to ", kMaxExperts, ".");
  SWITCHYARD_REQUIRE(c.top_k >= 1 && c.top_k <= c.num_experts, ShapeMismatch,
                     "config: top_k=", c.top_k, ", need 1 to num_experts=", c.num_experts, ".");
  SWITCHYARD_REQUIRE(std::string_view(activation_name(c.activation.kind)) != "unknown", Unsupported,
                     "config: activation=", static_cast<int>(c.activation.kind),
                     ", is none of ActivationKind.");
  if (c.activation.kind == ActivationKind::ClampedSwiglu)
    SWITCHYARD_REQUIRE(c.activation.limit > 0 && std::isfinite(c.activation.alpha), ShapeMismatch,
                       "config: activation limit=", c.activation.limit,
                       ", alpha=", c.activation.alpha,
                       ", need a positive limit and a finite alpha.");
  check_gate(c);
  if (c.shared.intermediate != 0) check_width("shared intermediate", c.shared.intermediate);
  SWITCHYARD_REQUIRE(!c.shared.sigmoid_gated || c.shared.intermediate > 0, ShapeMismatch,
                     "config: a shared gate without a shared expert. Set shared.intermediate.");
}

std::string describe(const MoeConfig& c) {
  const GateConfig& g = c.gate;
  std::string gate;
  switch (g.scoring) {
    case Scoring::Softmax: gate = "softmax then top-k"; break;
    case Scoring::SoftmaxOfTopK: gate = "top-k then softmax"; break;
    case Scoring::Sigmoid: gate = "sigmoid then top-k"; break;
    case Scoring::SparseMixer: gate = "sparse mixer"; break;
  }
  if (g.correction_bias) gate += " with correction bias";
  if (g.num_groups > 1) gate += cat(" in ", g.num_groups_kept, " of ", g.num_groups, " groups");
  if (g.renormalize) gate += ", renormalised";
  if (g.scale != 1) gate += cat(", scaled by ", g.scale);
  if (c.router_weight_on_input) gate += ", weight on the input";
  std::string text = cat("H ", c.hidden, ", I ", c.intermediate, ", E ", c.num_experts, ", K ",
                         c.top_k, ", ", activation_name(c.activation.kind), ", ", gate);
  if (c.expert_bias) text += ", expert biases";
  if (c.shared.intermediate > 0)
    text += cat(", shared expert ", c.shared.intermediate,
                c.shared.sigmoid_gated ? " with a sigmoid gate" : "");
  return text;
}

}  // namespace switchyard
