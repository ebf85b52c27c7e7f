// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/config.cc -- names and rules of MoeConfig.
#include "switchyard/config.h"

#include <algorithm>
#include <cmath>

#include "base/require.h"

namespace switchyard {
namespace {

// Sizes far beyond any model, small enough that products of three fit 63 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 20;

bool has_alpha(ActivationKind kind) {
  bool has = false;
  Activations::visit(kind, [&]<ActivationKind k>() { has = ActivationRule<k>::kHasAlpha; });
  return has;
}
bool has_limit(ActivationKind kind) {
  bool has = false;
  Activations::visit(kind, [&]<ActivationKind k>() { has = ActivationRule<k>::kHasLimit; });
  return has;
}

void check_width(const char* name, int64_t value) {
  SWITCHYARD_REQUIRE(value > 0 && value <= kMaxWidth, ShapeMismatch, "config: ", name, "=", value,
                     ", need 1 to ", kMaxWidth, ". Check the layer's description.");
  SWITCHYARD_REQUIRE(
      value % 8 == 0, Misaligned, "config: ", name, "=", value,
      ", need a multiple of 8 (rows are copied as 16-byte vectors of bf16). Pad the weights.");
}

// Of enumerators that count up to `last`.
template <class Enum>
void check_enumerator(const char* name, Enum value, Enum last) {
  SWITCHYARD_REQUIRE(static_cast<int>(value) >= 0 && value <= last, Unsupported, "config: ", name,
                     "=", static_cast<int>(value), ", need an enumerator, 0 to ",
                     static_cast<int>(last), ". Pass one of them.");
}

void check_groups(const MoeConfig& c) {
  const GateConfig& g = c.gate;
  SWITCHYARD_REQUIRE(g.num_groups >= 1 && c.num_experts % g.num_groups == 0, ShapeMismatch,
                     "config: num_groups=", g.num_groups, ", must divide E=", c.num_experts, ".");
  SWITCHYARD_REQUIRE(g.num_groups_kept >= 1 && g.num_groups_kept <= g.num_groups, ShapeMismatch,
                     "config: num_groups_kept=", g.num_groups_kept,
                     ", need 1 to num_groups=", g.num_groups, ".");
  SWITCHYARD_REQUIRE(g.num_groups == 1 || g.num_zero_experts == 0, Unsupported,
                     "config: num_groups=", g.num_groups,
                     ", zero experts belong to no group. Use one group.");
  const int64_t choice = c.num_choices() / g.num_groups * g.num_groups_kept;
  SWITCHYARD_REQUIRE(c.ids_are_given || c.top_k <= choice, ShapeMismatch, "config: top_k=", c.top_k,
                     ", the ", g.num_groups_kept, " kept groups have ", choice,
                     " experts. Keep more groups.");
  const bool scores_before_choice =
      g.scoring != Scoring::SoftmaxOfTopK && g.scoring != Scoring::SparseMixer;
  SWITCHYARD_REQUIRE(
      (g.num_groups == 1 && !g.correction_bias) || scores_before_choice, Unsupported,
      "config: groups and correction_bias need softmax, sigmoid or sqrt_softplus scores over all "
      "experts.");
}

// What a choice by token id, zero experts and scored shared experts go together with.
void check_choice(const MoeConfig& c) {
  const GateConfig& g = c.gate;
  SWITCHYARD_REQUIRE(g.vocabulary >= 0 && g.vocabulary <= INT32_MAX, ShapeMismatch,
                     "config: vocabulary=", g.vocabulary, ", need 0 to 2^31 - 1.");
  SWITCHYARD_REQUIRE(g.vocabulary == 0 || (!g.correction_bias && g.num_groups == 1 &&
                                           g.scoring != Scoring::SparseMixer),
                     Unsupported, "config: vocabulary=", g.vocabulary,
                     ", a choice by token id has neither correction bias nor groups nor a sparse "
                     "mixer. Leave them off.");
  SWITCHYARD_REQUIRE(
      g.num_zero_experts == 0 || (c.shared.intermediate == 0 && !c.path.present() &&
                                  !c.router_weight_on_input && !g.expert_scale),
      Unsupported, "config: num_zero_experts=", g.num_zero_experts,
      ", they go with neither shared experts, a path around the experts, weights on the input nor "
      "expert scales. Leave them off.");
  const int64_t scored = c.shared.num_scored;
  SWITCHYARD_REQUIRE(
      scored >= 0 && scored <= kMaxScoredShared && (scored == 0 || c.shared.intermediate > 0) &&
          c.shared.intermediate % std::max<int64_t>(1, 8 * scored) == 0,
      ShapeMismatch, "config: num_scored=", scored, ", shared intermediate=", c.shared.intermediate,
      ", need 0 to ", kMaxScoredShared, " experts whose sizes are equal multiples of 8.");
  SWITCHYARD_REQUIRE(
      scored == 0 || (g.scoring == Scoring::Sigmoid && g.renormalize && g.vocabulary == 0 &&
                      !c.shared.sigmoid_gated && !c.path.present()),
      Unsupported, "config: num_scored=", scored,
      ", the gate weighs shared experts with renormalised sigmoid scores only, and "
      "without a path around the routed ones.");
}

void check_path(const MoeConfig& c) {
  const RoutedPathConfig& p = c.path;
  if (p.latent != 0) check_width("latent", p.latent);
  SWITCHYARD_REQUIRE(std::isfinite(p.norm_epsilon) && p.norm_epsilon >= 0, ShapeMismatch,
                     "config: norm_epsilon=", p.norm_epsilon, ", must be finite and not negative.");
  SWITCHYARD_REQUIRE(!p.present() || !c.f32_sums, Unsupported,
                     "config: f32_sums with a path around the experts, which rounds its own output "
                     "to bf16. Leave it off.");
  SWITCHYARD_REQUIRE(!p.input_norm || p.latent == 0, Unsupported, "config: latent=", p.latent,
                     ", a norm before the experts goes with rows of H only. Leave one off.");
  SWITCHYARD_REQUIRE(p.latent > 0 || !p.present() || c.shared.intermediate == 0, Unsupported,
                     "config: shared intermediate=", c.shared.intermediate,
                     ", norms around the experts go with shared experts only in a latent path. "
                     "Leave one off.");
}

void check_gate(const MoeConfig& c) {
  const GateConfig& g = c.gate;
  check_enumerator("scoring", g.scoring, Scoring::SqrtSoftplus);
  check_enumerator("group_score", g.group_score, GroupScore::Top2Sum);
  check_groups(c);
  check_choice(c);
  SWITCHYARD_REQUIRE(std::isfinite(g.logit_softcap) && g.logit_softcap >= 0, ShapeMismatch,
                     "config: logit_softcap=", g.logit_softcap,
                     ", must be finite and not negative.");
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

void check_activation(const Activation& a) {
  SWITCHYARD_REQUIRE(std::string_view(activation_name(a.kind)) != "unknown", Unsupported,
                     "config: activation=", static_cast<int>(a.kind),
                     ", is none of ActivationKind.");
  if (has_limit(a.kind))
    SWITCHYARD_REQUIRE(a.limit > 0 && std::isfinite(a.alpha), ShapeMismatch,
                       "config: activation limit=", a.limit, ", alpha=", a.alpha,
                       ", need a positive limit and a finite alpha.");
  SWITCHYARD_REQUIRE(a.kind != ActivationKind::Situ || (a.alpha > 0 && std::isfinite(a.limit)),
                     ShapeMismatch, "config: activation alpha=", a.alpha, ", limit=", a.limit,
                     ", situ needs both positive and finite.");
}

// "silu", "clamped_swiglu (alpha 1.702, limit 7)".
std::string activation_text(const Activation& a) {
  std::string text = activation_name(a.kind);
  if (!has_limit(a.kind)) return text;
  return cat(text, " (", has_alpha(a.kind) ? cat("alpha ", a.alpha, ", ") : std::string(), "limit ",
             a.limit, ")");
}

std::string path_text(const RoutedPathConfig& p) {
  std::string text;
  if (p.input_norm) text += ", norm before the experts";
  if (p.latent > 0) text += cat(", experts work on a latent of ", p.latent);
  if (p.output_norm) text += ", norm after their sum";
  return text;
}

std::string shared_text(const MoeConfig& c) {
  if (c.shared.intermediate == 0) return "";
  std::string text = cat(", shared expert ", c.shared.intermediate);
  if (c.shared.sigmoid_gated) text += " with a sigmoid gate";
  if (c.shared.num_scored > 0) text += cat(" (", c.shared.num_scored, ", weighed by the gate)");
  if (c.shared.activation && *c.shared.activation != c.activation)
    text += cat(" with ", activation_text(*c.shared.activation));
  return text;
}

std::string choice_text(const GateConfig& g) {
  std::string gate;
  switch (g.scoring) {
    case Scoring::Softmax: gate = "softmax then top-k"; break;
    case Scoring::SoftmaxOfTopK: gate = "top-k then softmax"; break;
    case Scoring::Sigmoid: gate = "sigmoid then top-k"; break;
    case Scoring::SparseMixer: gate = "sparse mixer"; break;
    case Scoring::SqrtSoftplus: gate = "sqrt-softplus then top-k"; break;
  }
  if (g.vocabulary > 0)
    gate = cat("chosen by token id, weighed by ", gate.substr(0, gate.find(" then")));
  if (g.correction_bias) gate += " with correction bias";
  if (g.num_groups > 1) gate += cat(" in ", g.num_groups_kept, " of ", g.num_groups, " groups");
  if (g.renormalize) gate += ", renormalised";
  if (g.scale != 1) gate += cat(", scaled by ", g.scale);
  if (g.logit_softcap > 0) gate += cat(", logits capped at ", g.logit_softcap);
  if (g.expert_scale) gate += ", scaled per expert";
  if (g.rms_of_hidden) gate += ", on normed hidden states";
  return gate;
}

std::string gate_text(const MoeConfig& c) {
  std::string gate = c.ids_are_given ? "ids given" : choice_text(c.gate);
  if (c.router_weight_on_input) gate += ", weight on the input";
  if (c.gate.num_zero_experts > 0)
    gate += cat(", ", c.gate.num_zero_experts, " zero experts return their input");
  return gate;
}

}  // namespace

Activation activation_from_name(std::string_view name) {
  std::string accepted;
  for (const ActivationKind kind : Activations::kAll) {
    bool found = false;
    Activations::visit(kind, [&]<ActivationKind k>() {
      for (const char* known : ActivationRule<k>::kNames) {
        found |= known == name;
        accepted += cat(accepted.empty() ? "" : ", ", known);
      }
    });
    if (found) return {.kind = kind};
  }
  throw Error(Errc::Unsupported,
              cat("activation: name=", name, ", accepted are ", accepted, ". Use one of these."));
}

const char* activation_name(ActivationKind kind) noexcept {
  const char* name = "unknown";
  Activations::visit(kind, [&]<ActivationKind k>() { name = ActivationRule<k>::kNames.front(); });
  return name;
}

void validate(const MoeConfig& c) {
  check_width("hidden", c.hidden);
  check_width("intermediate", c.intermediate);
  SWITCHYARD_REQUIRE(c.num_experts >= 1 && c.num_experts <= kMaxExperts, ShapeMismatch,
                     "config: num_experts=", c.num_experts, ", need 1 to ", kMaxExperts, ".");
  const int64_t zero = c.gate.num_zero_experts;  // before it is added to anything
  SWITCHYARD_REQUIRE(zero >= 0 && zero <= kMaxExperts - c.num_experts, ShapeMismatch,
                     "config: num_zero_experts=", zero, ", need 0 to ", kMaxExperts,
                     " less E=", c.num_experts, ".");
  SWITCHYARD_REQUIRE(c.top_k >= 1 && (c.ids_are_given || c.top_k <= c.num_choices()), ShapeMismatch,
                     "config: top_k=", c.top_k, ", need 1 to num_experts=", c.num_choices(),
                     ". Set ids_are_given where other ranks hold the rest.");
  SWITCHYARD_REQUIRE(!c.ids_are_given || c.shared.num_scored == 0, Unsupported,
                     "config: ids_are_given with num_scored=", c.shared.num_scored,
                     ", whose weights are the gate's. Leave one off.");
  check_activation(c.activation);
  check_activation(c.shared_activation());
  check_gate(c);
  if (c.shared.intermediate != 0) check_width("shared intermediate", c.shared.intermediate);
  SWITCHYARD_REQUIRE(!c.shared.sigmoid_gated || c.shared.intermediate > 0, ShapeMismatch,
                     "config: a shared gate without a shared expert. Set shared.intermediate.");
  check_path(c);
}

std::string describe(const MoeConfig& c) {
  std::string text = cat("H ", c.hidden, ", I ", c.intermediate, ", E ", c.num_experts, ", K ",
                         c.top_k, ", ", activation_text(c.activation), ", ", gate_text(c));
  if (c.router_f32) text += ", router in f32";
  if (c.expert_bias) text += ", expert biases";
  if (c.f32_sums) text += ", f32 output";
  return text + shared_text(c) + path_text(c.path);
}

}  // namespace switchyard
