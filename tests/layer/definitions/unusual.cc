// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// Schemes that one family has.
#include <algorithm>
#include <cmath>

#include "testing/family_definitions.h"

namespace switchyard::testing {
namespace {

const std::string kMlp = "model.layers.1.mlp";

// ---- DeepSeek-V4: sqrt(softplus) scores; in the first layers a table chooses by token

double sqrt_softplus(double x) {
  return std::sqrt(std::log1p(std::exp(x)));
}

json deepseek_v4_config(double limit, bool tf5) {
  json config = base_config("deepseek_v4", "n_routed_experts");
  config.update({{"vocab_size", kVocabulary},
                 {"scoring_func", "sqrtsoftplus"},
                 {"topk_method", "noaux_tc"},
                 {"norm_topk_prob", true},
                 {"routed_scaling_factor", 1.5},
                 {"n_shared_experts", 1},
                 {"swiglu_limit", limit}});
  if (tf5)
    config["mlp_layer_types"] = {"hash_moe", "moe", "moe"};
  else
    config["num_hash_layers"] = 1;
  return config;
}

Definition deepseek_v4(int64_t layer, bool tf5) {
  const std::string layers = "layers." + std::to_string(layer);
  const double limit = 0.6;  // low, so that it matters
  Definition d;
  d.name = "deepseek_v4 layer " + std::to_string(layer) + (tf5 ? " tf5" : "");
  d.layer = layer;
  d.module = "model." + layers + ".mlp";
  d.config = deepseek_v4_config(limit, tf5);
  const std::string at = tf5 ? d.module : layers + ".ffn";
  const Act act = [=](double gate, double up) {
    return silu(std::min(gate, limit)) * std::clamp(up, -limit, limit);
  };
  router(d, at + ".gate.weight");
  routed_experts(d, tf5 ? fused(at + ".experts") : separate(at + ".experts", kW132), act);
  shared_expert(d, one(at + ".shared_experts", kInner, tf5 ? kProj : kW132), act);
  const bool by_table = layer == 0;
  const std::string table = at + ".gate.tid2eid";
  const std::string bias = at + (tf5 ? ".gate.e_score_correction_bias" : ".gate.bias");
  if (by_table)
    d.tensors.push_back([=](Maker& m) {
      m.i64_table(table, {kVocabulary, static_cast<int64_t>(kTopK)}, kExperts);
    });
  else
    tensor_f32(d, bias, {kExperts}, 0.3);
  d.route = [=](const Tensors& t, const Row& logits, int64_t token) {
    const Row scores = each(logits, sqrt_softplus);
    std::vector<size_t> chosen;
    if (by_table)
      for (size_t k = 0; k < kTopK; ++k)
        chosen.push_back(
            static_cast<size_t>(t.at(table).values[static_cast<size_t>(token) * kTopK + k]));
    else
      chosen = topk(plus(scores, t.at(bias).values), kTopK);
    return scaled(normalized(gathered(scores, chosen), 1e-20), 1.5);
  };
  return d;
}

// ---- Inkling: shared experts have scores, too, and stand inside the normalisation

constexpr int64_t kSinks = 2;

json inkling_config(bool tf5) {
  json text = base_config("inkling_text", "n_routed_experts", "intermediate_size");
  text.update({{"n_shared_experts", kSinks},
               {"route_scale", 4.0},
               {"shared_expert_sink", true},
               {"rms_norm_eps", 1e-6}});
  if (tf5)
    text.update({{"moe_intermediate_size", kInner},
                 {"intermediate_size", 8 * kInner},
                 {"mlp_layer_types", {"dense", "sparse", "sparse"}}});
  else  // intermediate_size is the experts' where dense_intermediate_size stands beside it
    text.update({{"dense_intermediate_size", 8 * kInner},
                 {"dense_mlp_idx", 1},
                 {"norm_after_topk", true},
                 {"use_gate_bias", true},
                 {"use_global_scale", true},
                 {"gate_activation", "sigmoid"}});
  if (!tf5) text.erase("model_type");
  json config = nested("inkling_mm_model", text);
  if (!tf5)
    config["mtp_config"] = {{"num_nextn_predict_layers", 8}, {"local_layer_ids", {0, 2, 4}}};
  return config;
}

// [E, 2I, H] with gate and up rows alternating.
Form interleaved(const std::string& gate_up, const std::string& down, int64_t number) {
  return {[=](Maker& m) {
            m.bf16(gate_up, {number, 2 * kInner, kHidden});
            m.bf16(down, {number, kHidden, kInner});
          },
          [=](int64_t e) {
            return Ffn{{gate_up, e * 2 * kInner * kHidden, 2 * kHidden, 1},
                       {gate_up, (e * 2 * kInner + 1) * kHidden, 2 * kHidden, 1},
                       {down, e * kHidden * kInner, kInner, 1}};
          }};
}

// [E, I, H] each, without ".weight".
Form stacked(const std::string& at, int64_t number) {
  return {[=](Maker& m) {
            m.bf16(at + ".gate_proj", {number, kInner, kHidden});
            m.bf16(at + ".up_proj", {number, kInner, kHidden});
            m.bf16(at + ".down_proj", {number, kHidden, kInner});
          },
          [=](int64_t e) {
            const int64_t first = e * kInner * kHidden;
            return Ffn{{at + ".gate_proj", first, kHidden, 1},
                       {at + ".up_proj", first, kHidden, 1},
                       {at + ".down_proj", first, kInner, 1}};
          }};
}

// Sigmoid scores of the chosen and of the sinks over their sum.
Routed inkling_route(const Row& logits, const Row& bias, double scale) {
  const Row scores = each(logits, sigmoid);
  const Row routed(scores.begin(), scores.begin() + kExperts);
  Routed r = gathered(routed, topk(plus(routed, bias), kTopK));
  r.shared_weights.assign(scores.begin() + kExperts, scores.end());
  double sum = 0;
  for (const Row* part : {&r.weights, &r.shared_weights})
    for (const double w : *part) sum += w;
  for (Row* part : {&r.weights, &r.shared_weights})
    for (double& w : *part) w *= scale / sum;
  return r;
}

Definition inkling(bool tf5) {
  const std::string at = std::string("model.") + (tf5 ? "language_model" : "llm") + ".layers.1.mlp";
  Definition d;
  d.name = tf5 ? "inkling_mm_model tf5" : "inkling_mm_model";
  d.module = "model.language_model.layers.1.mlp";
  d.config = inkling_config(tf5);
  router(d, at + ".gate.weight", {.rows = kExperts + kSinks});
  const std::string bias = at + (tf5 ? ".gate.e_score_correction_bias" : ".gate.bias");
  const std::string scale = at + ".gate.global_scale";
  tensor_f32(d, bias, {kExperts}, 0.3);
  tensor_f32(d, scale, {1}, 0.2, 0.7);
  const std::string experts = at + ".experts", shared = at + ".shared_experts";
  routed_experts(d, tf5 ? fused(experts)
                        : interleaved(experts + ".w13_weight", experts + ".w2_weight", kExperts));
  const Form sinks =
      tf5 ? stacked(shared, kSinks)
          : interleaved(shared + ".shared_w13_weight", shared + ".shared_w2_weight", kSinks);
  d.tensors.push_back(sinks.make);
  d.shared = [=](const Tensors& t, const Row& x, const Routed& routed) {
    Row y(x.size(), 0.0);
    for (int64_t s = 0; s < kSinks; ++s) {
      Row out = ffn(t, sinks.expert(s), silu_gated, x);
      for (double& v : out) v *= routed.shared_weights[static_cast<size_t>(s)];
      y = plus(y, out);
    }
    return y;
  };
  d.route = [=](const Tensors& t, const Row& logits, int64_t) {
    return inkling_route(logits, t.at(bias).values, 4.0 * t.at(scale).values[0]);
  };
  return d;
}

// ---- Phi-3.5-MoE: two masked softmaxes

Routed sparsemixer(const Row& scores, double epsilon) {
  Routed r;
  Row left = scores;
  for (int round = 0; round < 2; ++round) {
    const size_t best = topk(left, 1)[0];
    const double threshold = left[best];
    Row gates = left;
    for (size_t e = 0; e < scores.size(); ++e)
      if ((threshold - scores[e]) / std::max(std::abs(scores[e]), threshold) > 2 * epsilon)
        gates[e] = -INFINITY;
    r.experts.push_back(best);
    r.weights.push_back(softmax(gates)[best]);
    left[best] = -INFINITY;
  }
  return r;
}

Definition phimoe(bool tf5) {
  const std::string at = tf5 ? kMlp : "model.layers.1.block_sparse_moe";
  Definition d;
  d.name = tf5 ? "phimoe tf5" : "phimoe";
  d.config = base_config("phimoe", "num_local_experts", "intermediate_size", 2);
  d.config["router_jitter_noise"] = 0.05;
  // Small, so that several logits are within the threshold of the largest.
  router(d, at + (tf5 ? ".router.weight" : ".gate.weight"), {.range = 0.02});
  routed_experts(d, tf5 ? fused(at + ".experts") : separate(at + ".experts", kW132));
  d.route = [](const Tensors&, const Row& logits, int64_t) { return sparsemixer(logits, 0.05); };
  return d;
}

}  // namespace

std::vector<Definition> unusual_definitions() {
  std::vector<Definition> all;
  for (const bool tf5 : {false, true}) {
    all.push_back(deepseek_v4(0, tf5));
    all.push_back(deepseek_v4(1, tf5));
    all.push_back(inkling(tf5));
    all.push_back(phimoe(tf5));
  }
  return all;
}

}  // namespace switchyard::testing
