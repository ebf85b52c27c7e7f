// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/family_top_k_softmax.cc -- top-k of the logits, then softmax over the chosen; a sparse
// mixer.
#include "weights/family_parts.h"

namespace switchyard {
namespace {

// Biases everywhere, clamped SwiGLU; gate and up alternate. In bf16 the experts are stored
// transposed, in MXFP4 not: its blocks run along the inner dimension.
void describe_gpt_oss(FamilyLayers& f, const ConfigReader& config) {
  Activation& act = f.config.activation;
  act.kind = ActivationKind::ClampedSwiglu;  // hidden_act is silu there and is not read
  act.limit = config.float_or({"swiglu_limit"}, 7.0);
  act.alpha = config.float_or({"swiglu_alpha"}, act.alpha);
  f.unread = {{"hidden_act", "\"silu\""}};
  f.config.gate.scoring = Scoring::SoftmaxOfTopK;
  f.config.expert_bias = f.config.router_bias = true;
  const std::string mlp = kMlp;
  TensorNames names;
  names.router = mlp + ".router.weight";
  names.router_bias = mlp + ".router.bias";
  name_fused_experts(names, mlp);
  names.fused_gate_up_bias = mlp + ".experts.gate_up_proj_bias";
  names.fused_down_bias = mlp + ".experts.down_proj_bias";
  names.fused = Fused::Either;
  names.fused_interleaved = true;
  f.forms = {names};
}

// All experts in one tensor.
void describe_granitemoe(FamilyLayers& f, const ConfigReader&) {
  f.config.gate.scoring = Scoring::SoftmaxOfTopK;
  f.module = cat("model.", kSparseMoe);
  TensorNames names, in_memory;
  names.router = cat(kSparseMoe, ".router.layer.weight");
  names.fused_gate_up = cat(kSparseMoe, ".input_linear.weight");
  names.fused_down = cat(kSparseMoe, ".output_linear.weight");
  in_memory.router = cat(kSparseMoe, ".router.weight");
  name_fused_experts(in_memory, kSparseMoe);
  f.forms = {names, in_memory};
}

// A shared expert beside the block, gate and up in one matrix.
void describe_granite_shared(FamilyLayers& f, const ConfigReader& config, int64_t absent) {
  describe_granitemoe(f, config);
  f.config.shared.intermediate = config.integer_or({"shared_intermediate_size"}, absent, 0);
  for (TensorNames& names : f.forms) {
    names.shared_gate_up = "layers.{layer}.shared_mlp.input_linear.weight";
    names.shared_down = "layers.{layer}.shared_mlp.output_linear.weight";
  }
}

// Top-k of the logits; then softmax, or sigmoid and perhaps renormalised. The sum of routed and
// shared experts may be an average: half of every W2.
void describe_cohere2_moe(FamilyLayers& f, const ConfigReader& config) {
  GateConfig& gate = f.config.gate;
  gate.scoring = scoring_from_name(config, "expert_selection_fn", "softmax");
  if (gate.scoring == Scoring::Softmax) {
    gate.scoring = Scoring::SoftmaxOfTopK;
    f.unread = {{"norm_topk_prob", "false"}};  // a softmax of the chosen needs none
  } else
    gate.renormalize = config.boolean_or({"norm_topk_prob"}, true);
  add_shared_experts(f.config, config, 0);
  const auto strategy = config.text_or({"shared_expert_combination_strategy"}, "average");
  if (strategy == "average" && f.config.shared.intermediate > 0) f.down_factor = 0.5f;
  f.moe_layers = sparse_layers(config, f.num_layers, 0);
  f.forms = {names_of_experts(kMlp, {.shared = ".shared_experts"})};
}

// Sparse mixer of two experts; w1 is gate, w3 is up.
void describe_phimoe(FamilyLayers& f, const ConfigReader& config) {
  f.config.gate.scoring = Scoring::SparseMixer;
  f.config.gate.jitter_epsilon = config.float_or({"router_jitter_noise"}, 0.01);
  f.forms = {names_of_w_experts(kSparseMoe), names_of_experts(kMlp, {.router = ".router.weight"})};
}

}  // namespace

std::vector<Family> top_k_softmax_families() {
  return {
      {"cohere2_moe", "Cohere2Moe", describe_cohere2_moe},
      {"gpt_oss", "GptOss", describe_gpt_oss},
      {"granitemoe", "GraniteMoe", describe_granitemoe},
      {"granitemoehybrid", "GraniteMoeHybrid",
       [](auto& f, auto& config) { describe_granite_shared(f, config, 1024); }},
      {"granitemoeshared", "GraniteMoeShared",
       [](auto& f, auto& config) { describe_granite_shared(f, config, 0); }},
      {"phimoe", "Phimoe", describe_phimoe},
  };
}

}  // namespace switchyard
