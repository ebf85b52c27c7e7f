// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// Families whose weights are a function of the chosen logits alone.
#include <algorithm>

#include "testing/family_definitions.h"

namespace switchyard::testing {
namespace {

const std::string kMlp = "model.layers.1.mlp";

// ---- Granite

Definition granite(const char* type, bool shared, bool tf5) {
  const std::string at = "model.layers.1.block_sparse_moe", beside = "model.layers.1.shared_mlp";
  Definition d;
  d.name = std::string(type) + (tf5 ? " tf5" : "");
  d.module = at;
  d.config = base_config(type, "num_local_experts", "intermediate_size");
  router(d, at + (tf5 ? ".router.weight" : ".router.layer.weight"));
  routed_experts(d, tf5 ? fused(at + ".experts")
                        : fused(at + ".input_linear.weight", at + ".output_linear.weight"));
  d.route = top_softmax();
  if (!shared) return d;
  d.config["shared_intermediate_size"] = 96;
  shared_expert(d,
                one_fused(beside + ".input_linear.weight", beside + ".output_linear.weight", 96));
  return d;
}

// The kind of a layer's attention says nothing about its experts: every layer has them.
Definition granite_hybrid(bool tf5) {
  Definition d = granite("granitemoehybrid", true, tf5);
  d.config["layer_types"] = {"mamba", "mamba", "attention"};
  return d;
}

// ---- Cohere2-MoE

struct Cohere {
  const char* form;
  const char* scores;
  bool normalize;
  int shared;
  const char* combination;
  bool is_nested = false, is_fused = false;
};

Definition cohere2(const Cohere& c) {
  Definition d;
  d.name = std::string("cohere2_moe ") + c.form;
  d.module = c.is_nested ? "model.language_model.layers.1.mlp" : kMlp;
  d.config = base_config("cohere2_moe", "num_experts", "intermediate_size");
  d.config.update({{"expert_selection_fn", c.scores},
                   {"norm_topk_prob", c.normalize},
                   {"num_shared_experts", c.shared},
                   {"shared_expert_combination_strategy", c.combination},
                   {"first_k_dense_replace", 1},
                   {"prefix_dense_intermediate_size", 8 * kInner}});
  if (c.is_nested) d.config = nested("cohere2_vision", d.config);
  router(d, d.module + ".gate.weight");
  const std::string experts = d.module + ".experts";
  routed_experts(d, c.is_fused ? fused(experts) : separate(experts));
  if (c.shared > 0) shared_mlp(d, d.module + ".shared_experts", c.shared * kInner);
  if (c.shared > 0 && std::string(c.combination) == "average") d.factor = 0.5;
  d.route = top_softmax();  // norm_topk_prob is not looked at
  if (std::string(c.scores) == "sigmoid")
    d.route = [normalize = c.normalize](const Tensors&, const Row& logits, int64_t) {
      Routed r = gathered(logits, topk(logits, kTopK));
      r.weights = each(r.weights, sigmoid);
      return normalize ? normalized(r) : r;
    };
  return d;
}

// ---- gpt-oss in bf16 as transformers writes it, transposed; gate and up alternate

Definition gpt_oss() {
  Definition d;
  const std::string at = kMlp;
  d.name = "gpt_oss";
  d.config = base_config("gpt_oss", "num_local_experts", "intermediate_size");
  d.config["swiglu_limit"] = 0.5;  // low, so that it matters
  d.tensors.push_back([=](Maker& m) {
    m.bf16(at + ".experts.gate_up_proj", {kExperts, kHidden, 2 * kInner});
    m.bf16(at + ".experts.down_proj", {kExperts, kInner, kHidden});
  });
  gpt_oss_biases(d, at);
  d.expert = [=](const Tensors& t, size_t expert, const Row& x) {
    const auto e = static_cast<int64_t>(expert);
    const View w1{at + ".experts.gate_up_proj", e * kHidden * 2 * kInner, 1, 2 * kInner};
    const View w2{at + ".experts.down_proj", e * kInner * kHidden, 1, kHidden};
    return gpt_oss_expert(t, at, w1, w2, expert, x);
  };
  return d;
}

// ---- Llama 4: the weight scales the input

Definition llama4(bool is_nested) {
  Definition d;
  d.name = is_nested ? "llama4 nested" : "llama4";
  d.config = base_config("llama4_text", "num_local_experts", "intermediate_size", 1);
  d.config["intermediate_size_mlp"] = 2 * kInner;
  d.config["interleave_moe_layer_step"] = 2;
  if (is_nested) d.config = nested("llama4", d.config);
  const std::string at =
      std::string(is_nested ? "language_model." : "") + "model.layers.1.feed_forward";
  d.module = at;
  router(d, at + ".router.weight");
  routed_experts(d, transposed(at + ".experts"));
  shared_mlp(d, at + ".shared_expert", kInner);
  d.weight_on_input = true;
  d.route = [](const Tensors&, const Row& logits, int64_t) {
    const auto best = topk(logits, 1);
    return Routed{best, {sigmoid(logits[best[0]])}};
  };
  return d;
}

}  // namespace

std::vector<Definition> chosen_definitions() {
  return {granite("granitemoe", false, false),
          granite("granitemoe", false, true),
          granite("granitemoeshared", true, false),
          granite("granitemoeshared", true, true),
          granite_hybrid(false),
          granite_hybrid(true),
          cohere2({"softmax", "softmax", true, 0, "average"}),
          cohere2({"softmax not normalised", "softmax", false, 2, "sum"}),
          cohere2({"sigmoid", "sigmoid", true, 1, "sum"}),
          cohere2({"sigmoid not normalised", "sigmoid", false, 0, "average", false, true}),
          cohere2({"average", "sigmoid", true, 2, "average", true}),
          cohere2({"average tf5", "sigmoid", true, 2, "average", true, true}),
          gpt_oss(),
          llama4(false),
          llama4(true)};
}

}  // namespace switchyard::testing
