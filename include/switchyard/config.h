// include/switchyard/config.h -- public: what one MoE layer computes, as plain data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace switchyard {

/// The function between the two GEMMs of an expert; all of it in fp32 on unrounded sums.
enum class ActivationKind {
  SiluGated,      // up * gate / (1 + exp(-gate)); also named silu, SiGLU, swiglu
  GeluGated,      // up * gate * Phi(gate), Phi by erf; named gelu
  GeluTanhGated,  // up * gelu(gate) by its tanh form; named gelu_tanh, gelu_pytorch_tanh
  ClampedSwiglu,  // gpt-oss: (clamp(up, -limit, limit) + 1) * g / (1 + exp(-alpha g)), g =
                  // min(gate, limit)
  Relu2,          // max(x, 0)^2, without a gate: W1 has I rows instead of 2I
};

struct Activation {
  ActivationKind kind = ActivationKind::SiluGated;
  float alpha = 1.702f;  // ClampedSwiglu only
  float limit = 7.0f;    // ClampedSwiglu only; > 0

  bool gated() const { return kind != ActivationKind::Relu2; }
  bool operator==(const Activation&) const = default;
};

/// Throws Error(Unsupported) that lists the accepted names.
Activation activation_from_name(std::string_view name);
/// The canonical name: silu, gelu, gelu_tanh, clamped_swiglu, relu2.
const char* activation_name(ActivationKind kind) noexcept;

/// How router logits become scores.
enum class Scoring {
  Softmax,        // over all E experts, before the choice
  SoftmaxOfTopK,  // over the K chosen logits
  Sigmoid,        // of each logit alone
  SparseMixer,    // phimoe: K = 2 masked softmaxes, each over logits close to the maximum
};

/// How a group of experts is scored when the choice is limited to a few groups.
enum class GroupScore {
  Max,      // DeepSeek-V2, group_limited_greedy
  Top2Sum,  // DeepSeek-V3: sum of the two best biased scores of the group
};

/// The gate: logits f32 [T, E] -> the K best experts of each token and their weights.
/// Ties go to the lowest expert id. Ids come in descending order of the score that chose them.
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
      0.01f;  // SparseMixer only: logits further than 2 eps (relative) are masked

  bool operator==(const GateConfig&) const = default;
};

/// Experts that see every token; their sum joins in fp32 before the final rounding.
struct SharedExpertConfig {
  int64_t intermediate = 0;    // 0: none. Several shared experts are one wider expert
  bool sigmoid_gated = false;  // scaled by sigmoid(hidden . shared_gate) (qwen2_moe, qwen3_next)

  bool operator==(const SharedExpertConfig&) const = default;
};

/// Ten times the experts of any model known: a limit that lets a token's scores stand on the stack.
inline constexpr int64_t kMaxExperts = 4096;

/// One MoE layer. Letters as everywhere: H, I, E, K.
struct MoeConfig {
  int64_t hidden = 0;        // H, a multiple of 8
  int64_t intermediate = 0;  // I of one routed expert, a multiple of 8
  int64_t num_experts = 0;   // E <= kMaxExperts, over all ranks; a multiple of them
  int64_t top_k = 0;         // K, 1 <= K <= E
  Activation activation;
  GateConfig gate;
  SharedExpertConfig shared;
  bool expert_bias =
      false;  // b1 [E, 2I] joins the sums before the activation, b2 [E, H] before GEMM2's rounding
  bool router_bias = false;  // f32 [E], added to the logits
  /// Llama-4: the fp32 router weight scales GEMM1's fp32 sums before the activation, and the
  /// weighted gather then adds without weights. Only for Scoring::Sigmoid with K = 1.
  bool router_weight_on_input = false;

  /// Rows of W1: 2I for a gated activation, else I.
  int64_t w1_rows() const { return activation.gated() ? 2 * intermediate : intermediate; }
  bool operator==(const MoeConfig&) const = default;
};

/// Throws Error(ShapeMismatch or Unsupported) for a layer that no strategy can run.
void validate(const MoeConfig& config);

/// "H 2048, I 768, E 128, K 8, silu, softmax then top-k, renormalised".
std::string describe(const MoeConfig& config);

}  // namespace switchyard
