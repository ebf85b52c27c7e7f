// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/config.h -- public: what one MoE layer computes, as plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "switchyard/activation.h"

namespace [[gnu::visibility("default")]] switchyard {

/// How router logits become scores.
enum class Scoring {
  Softmax,        // over all E experts, before the choice
  SoftmaxOfTopK,  // over the K chosen logits
  Sigmoid,        // of each logit alone
  SparseMixer,    // phimoe: K = 2 masked softmaxes, each over logits close to the maximum
  SqrtSoftplus,   // DeepSeek-V4: sqrt(log(1 + exp(logit))) of each logit alone
};

/// How a group of experts is scored when the choice is limited to a few groups.
enum class GroupScore {
  Max,      // DeepSeek-V2, group_limited_greedy
  Top2Sum,  // DeepSeek-V3: sum of the two best biased scores of the group
};

/// The gate: logits f32 [T, E] -> the K best experts of each token and their weights.
/// Ties go to the lowest expert id. Ids come in descending order of the score that chose them; of a
/// choice by token id, in the order of its table.
struct GateConfig {
  Scoring scoring = Scoring::Softmax;
  bool renormalize = false;         // divide the K weights by their sum
  float renormalize_epsilon = 0;    // added to that sum (DeepSeek-V3: 1e-20)
  bool clamp_renormalizer = false;  // the sum is at least renormalize_epsilon instead (ernie4_5)
  float scale = 1;                  // routed_scaling_factor, the last factor of the weights
  bool correction_bias = false;     // f32 [E] added to the scores for the choice only
  int64_t num_groups = 1;           // E is divided into this many equal, consecutive groups
  int64_t num_groups_kept = 1;      // the choice is made inside the best of them
  GroupScore group_score = GroupScore::Top2Sum;
  float jitter_epsilon =
      0.01f;                // SparseMixer only: logits further than 2 eps (relative) are masked
  float logit_softcap = 0;  // c > 0: logits become c tanh(logit / c) first (laguna)
  /// V > 0: a token's id in [0, V) chooses its experts, by a table; scores only weigh them
  /// (DeepSeek-V4's first layers). Such a layer needs ForwardArgs::token_ids.
  int64_t vocabulary = 0;
  /// Z more experts, ids E to E + Z - 1, that return their input (longcat_flash). They have scores
  /// and weights, but neither tensors nor owners.
  int64_t num_zero_experts = 0;
  bool expert_scale = false;   // f32 [E], the very last factor of the weights (gemma4, inkling)
  bool rms_of_hidden = false;  // logits are of hidden / rms(hidden), without a weight (gemma4)

  bool operator==(const GateConfig&) const = default;
};

/// Experts that see every token; their sum joins in fp32 before the final rounding.
struct SharedExpertConfig {
  int64_t intermediate = 0;    // 0: none. Several shared experts are one wider expert
  bool sigmoid_gated = false;  // scaled by sigmoid(hidden . shared_gate) (qwen2_moe, qwen3_next)
  std::optional<Activation> activation = {};  // absent: that of the routed experts
  /// S > 0: the intermediate size is that of S experts side by side, and the gate weighs each: the
  /// router has S rows more, and renormalising counts their scores, too (inkling).
  int64_t num_scored = 0;

  bool operator==(const SharedExpertConfig&) const = default;
};

/// Ten times the experts of any model known: a limit that lets a token's scores stand on the stack.
inline constexpr int64_t kMaxExperts = 4096;
/// Most shared experts that a gate weighs.
inline constexpr int64_t kMaxScoredShared = 16;

/// What stands around the routed experts and is not seen by router and shared experts:
/// rows = down(norm(hidden)) go to the experts, up(norm(their sum)) comes back. Each part may be
/// absent.
struct RoutedPathConfig {
  bool input_norm = false;     // RMS norm with a weight [H] (gemma4)
  int64_t latent = 0;          // L > 0: experts work on rows of L, a multiple of 8 (nemotron_h)
  bool output_norm = false;    // RMS norm of the sum, [L] or [H] (kimi_k3, gemma4)
  float norm_epsilon = 1e-6f;  // also of GateConfig::rms_of_hidden

  bool present() const { return input_norm || latent > 0 || output_norm; }
  bool operator==(const RoutedPathConfig&) const = default;
};

/// Experts that each of P ranks has a place for: E / P, rounded up. They own consecutive blocks of
/// global ids; where P does not divide E, the last ranks have places that no expert fills.
constexpr int64_t experts_of_rank(int64_t num_experts, int64_t num_ranks) {
  return (num_experts + num_ranks - 1) / num_ranks;
}

/// One MoE layer. Letters as everywhere: H, I, E, K.
struct MoeConfig {
  int64_t hidden = 0;        // H, a multiple of 8
  int64_t intermediate = 0;  // I of one routed expert, a multiple of 8
  int64_t num_experts = 0;   // E <= kMaxExperts, over all ranks; see experts_of_rank
  int64_t top_k = 0;         // K >= 1; at most E where the gate chooses
  Activation activation{};
  GateConfig gate{};
  SharedExpertConfig shared{};
  bool expert_bias =
      false;  // b1 [E, 2I] joins the sums before the activation, b2 [E, H] before GEMM2's rounding
  bool router_bias = false;  // f32 [E], added to the logits
  bool router_f32 = false;   // the router's weight is f32, not bf16; its products are then of f32
  /// The rows of routed experts and their sum over experts stay in f32, partial rows of a rank
  /// aside: the layer's output is f32 [T, H]. For sums that another product or norm follows.
  bool f32_sums = false;
  RoutedPathConfig path{};
  /// Llama-4: the fp32 router weight scales GEMM1's fp32 sums before the activation, and the
  /// weighted gather then adds without weights. Only for Scoring::Sigmoid with K = 1.
  bool router_weight_on_input = false;
  /// No gate and no router weights: every call brings ids and weights. K may then exceed E, of a rank
  /// that holds fewer experts than a token chooses: the other ids are no expert here.
  bool ids_are_given = false;

  /// Rows of W1: 2I for a gated activation, else I.
  int64_t w1_rows() const { return activation.gated() ? 2 * intermediate : intermediate; }
  /// Width of the rows that routed experts see: L of a latent path, else H.
  int64_t routed_hidden() const { return path.latent > 0 ? path.latent : hidden; }
  /// Ids that the gate chooses from: E and the zero experts.
  int64_t num_choices() const { return num_experts + gate.num_zero_experts; }
  /// Rows of the router: a logit for each choice and each scored shared expert.
  int64_t router_rows() const { return num_choices() + shared.num_scored; }
  Activation shared_activation() const { return shared.activation.value_or(activation); }
  int64_t shared_w1_rows() const {
    return shared_activation().gated() ? 2 * shared.intermediate : shared.intermediate;
  }
  bool operator==(const MoeConfig&) const = default;
};

/// Throws Error(ShapeMismatch or Unsupported) for a layer that no strategy can run.
void validate(const MoeConfig& config);

/// "H 2048, I 768, E 128, K 8, silu, softmax then top-k, renormalised".
std::string describe(const MoeConfig& config);

}  // namespace switchyard
