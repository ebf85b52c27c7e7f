// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/gate_topk.cc -- logits -> expert ids and weights, all in fp32, one token at a time.
#include "cpu/run.h"
#include "cpu/slot_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace switchyard::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Best first; equal scores by id. NaN is worse than anything, so ids stay distinct and in range.
bool better(float a, int64_t id_a, float b, int64_t id_b) {
  if (std::isnan(a)) a = kNever;
  if (std::isnan(b)) b = kNever;
  return a > b || (a == b && id_a < id_b);
}

float softplus(float x) {  // log(1 + exp(x)), without overflow
  return std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x)));
}

// One token's scores, computed once; 20 KiB of stack, so nothing is allocated.
class Token {
 public:
  Token(const float* logits, const float* bias, int64_t num_experts, const GateConfig& gate)
      : logits_(logits), num_experts_(num_experts), gate_(gate) {
    if (gate.scoring == Scoring::Softmax) {
      max_ = *std::max_element(logits, logits + num_experts);
      for (int64_t e = 0; e < num_experts; ++e) sum_ += std::exp(logits[e] - max_);
    }
    // Scores saturate: where nothing is added to them, logits order experts alike and better.
    const bool by_logit = !bias && gate.num_groups == 1;
    for (int64_t e = 0; e < num_experts; ++e)
      choice_[e] = by_logit ? logits[e] : bias ? score(e) + bias[e] : score(e);
    if (gate.num_groups > gate.num_groups_kept)
      choose_groups();
    else
      std::fill_n(may_choose_, num_experts, true);
  }

  // The score of an expert alone, without the bias that only the choice sees.
  float score(int64_t e) const {
    switch (gate_.scoring) {
      case Scoring::Softmax: return std::exp(logits_[e] - max_) / sum_;
      case Scoring::Sigmoid: return 1.0f / (1.0f + std::exp(-logits_[e]));
      case Scoring::SqrtSoftplus: return std::sqrt(softplus(logits_[e]));
      case Scoring::SoftmaxOfTopK:
      case Scoring::SparseMixer: break;
    }
    return logits_[e];
  }

  void choose(int32_t* ids, int64_t top_k) {
    for (int64_t k = 0; k < top_k; ++k) {
      int64_t best = -1;
      for (int64_t e = 0; e < num_experts_; ++e)
        if (may_choose_[e] && (best < 0 || better(choice_[e], e, choice_[best], best))) best = e;
      may_choose_[best] = false;
      ids[k] = static_cast<int32_t>(best);
    }
  }

 private:
  float group_score(const float* scores, int64_t size) const {
    float first = kNever, second = kNever;
    for (int64_t i = 0; i < size; ++i) {
      if (scores[i] > first)
        second = first, first = scores[i];
      else if (scores[i] > second)
        second = scores[i];
    }
    return gate_.group_score == GroupScore::Max || size == 1 ? first : first + second;
  }

  // Only experts of the best groups may be chosen; equal groups by number.
  void choose_groups() {
    const int64_t size = num_experts_ / gate_.num_groups;
    float scores[kMaxExperts];
    for (int64_t g = 0; g < gate_.num_groups; ++g)
      scores[g] = group_score(choice_ + g * size, size);
    for (int64_t g = 0; g < gate_.num_groups; ++g) {
      int64_t num_ahead = 0;
      for (int64_t other = 0; other < gate_.num_groups; ++other)
        num_ahead += other != g && better(scores[other], other, scores[g], g);
      std::fill_n(may_choose_ + g * size, size, num_ahead < gate_.num_groups_kept);
    }
  }

  const float* logits_;
  int64_t num_experts_;
  const GateConfig& gate_;
  float max_ = 0, sum_ = 0;
  float choice_[kMaxExperts];
  bool may_choose_[kMaxExperts];
};

void softmax_of_chosen(float* weights, const float* logits, const int32_t* ids, int64_t top_k) {
  float max = kNever, sum = 0;
  for (int64_t k = 0; k < top_k; ++k) max = std::max(max, logits[ids[k]]);
  for (int64_t k = 0; k < top_k; ++k) sum += weights[k] = std::exp(logits[ids[k]] - max);
  for (int64_t k = 0; k < top_k; ++k) weights[k] /= sum;
}

// phimoe at inference: each of two experts is the best of those left, weighted by a softmax over
// the logits that are close to it (within 2 epsilon, relative).
void sparse_mixer(int32_t* ids, float* weights, const float* logits, int64_t num_experts,
                  float epsilon) {
  for (int64_t k = 0; k < 2; ++k) {
    int64_t best = -1;
    for (int64_t e = 0; e < num_experts; ++e)
      if ((k == 0 || e != ids[0]) && (best < 0 || better(logits[e], e, logits[best], best)))
        best = e;
    const float max = logits[best];
    float sum = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      const float factor = std::max(std::abs(logits[e]), max);
      const bool far = (max - logits[e]) / factor > 2 * epsilon;
      if (!far && (k == 0 || e != ids[0])) sum += std::exp(logits[e] - max);
    }
    ids[k] = static_cast<int32_t>(best);
    weights[k] = 1.0f / sum;
  }
}

void scale_weights(float* weights, int64_t top_k, const GateConfig& gate) {
  if (gate.renormalize) {
    float sum = 0;
    for (int64_t k = 0; k < top_k; ++k) sum += weights[k];
    sum = gate.clamp_renormalizer ? std::max(sum, gate.renormalize_epsilon)
                                  : sum + gate.renormalize_epsilon;
    for (int64_t k = 0; k < top_k; ++k) weights[k] /= sum;
  }
  for (int64_t k = 0; k < top_k; ++k) weights[k] *= gate.scale;
}

// Renormalised sigmoids of the chosen and of every scored shared expert, all of which may be too
// small for a float: a softmax over log(sigmoid).
void weigh_with_shared(float* weights, float* shared, const float* logits, const int32_t* ids,
                       int64_t top_k, int64_t num_choices, int64_t num_shared, float scale) {
  const auto log_sigmoid = [](float x) { return -softplus(-x); };
  float max = kNever, sum = 0;
  for (int64_t k = 0; k < top_k; ++k) max = std::max(max, weights[k] = log_sigmoid(logits[ids[k]]));
  for (int64_t s = 0; s < num_shared; ++s)
    max = std::max(max, shared[s] = log_sigmoid(logits[num_choices + s]));
  for (int64_t k = 0; k < top_k; ++k) sum += weights[k] = std::exp(weights[k] - max);
  for (int64_t s = 0; s < num_shared; ++s) sum += shared[s] = std::exp(shared[s] - max);
  for (int64_t k = 0; k < top_k; ++k) weights[k] = weights[k] / sum * scale;
  for (int64_t s = 0; s < num_shared; ++s) shared[s] = shared[s] / sum * scale;
}

// A token's logits as the rule sees them, into `dst` unless they stand there as they are.
const float* logits_of(float* dst, const GateTopk& g, int64_t t, int64_t num_logits) {
  const float* src = g.logits.as<float>() + t * g.logit_parts * num_logits;
  const bool as_they_are = g.logit_parts == 1 && !g.row_scale.present() && !g.bias.present() &&
                           g.gate.logit_softcap == 0;
  if (as_they_are) return src;
  const float scale = g.row_scale.present() ? g.row_scale.as<float>()[t] : 1.0f;
  const float cap = g.gate.logit_softcap;
  for (int64_t e = 0; e < num_logits; ++e) {
    float logit = 0;
    for (int part = g.logit_parts - 1; part >= 0; --part) logit += src[part * num_logits + e];
    logit *= scale;
    if (g.bias.present()) logit += g.bias.as<float>()[e];
    dst[e] = cap > 0 ? cap * std::tanh(logit / cap) : logit;
  }
  return dst;
}

// From the table; a token that is not there has no expert that any layer accepts.
void choose_by_token(int32_t* ids, const GateTopk& g, int64_t t, int64_t top_k) {
  const int64_t token =
      g.token_ids.dtype == DType::I64 ? g.token_ids.as<int64_t>()[t] : g.token_ids.as<int32_t>()[t];
  if (token < 0 || token >= g.token_experts.dim(0))
    std::fill_n(ids, top_k, INT32_MIN);
  else
    std::copy_n(g.token_experts.as<int32_t>() + token * top_k, top_k, ids);
}

void route_token(const GateTopk& g, int64_t t, const float* logits, int64_t num_choices) {
  const int64_t top_k = g.ids.dim(1);
  const int64_t num_shared = g.shared_weights.present() ? g.shared_weights.dim(1) : 0;
  int32_t* ids = g.ids.as<int32_t>() + t * top_k;
  float* weights = g.weights.as<float>() + t * top_k;
  float* shared = g.shared_weights.as<float>() + t * num_shared;
  const float* bias = g.correction_bias.present() ? g.correction_bias.as<float>() : nullptr;
  if (g.gate.scoring == Scoring::SparseMixer) {
    sparse_mixer(ids, weights, logits, num_choices, g.gate.jitter_epsilon);
    return scale_weights(weights, top_k, g.gate);
  }
  Token token(logits, bias, num_choices, g.gate);
  if (g.token_experts.present())
    choose_by_token(ids, g, t, top_k);
  else
    token.choose(ids, top_k);
  if (g.token_experts.present() && ids[0] == INT32_MIN)
    std::fill_n(weights, top_k, 0.0f);
  else if (num_shared > 0)
    weigh_with_shared(weights, shared, logits, ids, top_k, num_choices, num_shared, g.gate.scale);
  else if (g.gate.scoring == Scoring::SoftmaxOfTopK)
    softmax_of_chosen(weights, logits, ids, top_k);
  else
    for (int64_t k = 0; k < top_k; ++k) weights[k] = token.score(ids[k]);
  if (num_shared == 0) scale_weights(weights, top_k, g.gate);
}

// The last factor.
void scale_by_expert(const GateTopk& g, int64_t t, int64_t num_choices) {
  const int64_t top_k = g.ids.dim(1);
  const float* scale = g.expert_scale.as<float>();
  for (int64_t at = t * top_k; at < (t + 1) * top_k; ++at)
    if (const int32_t id = g.ids.as<int32_t>()[at]; id >= 0) g.weights.as<float>()[at] *= scale[id];
  if (!g.shared_weights.present()) return;
  const int64_t num_shared = g.shared_weights.dim(1);
  for (int64_t s = 0; s < num_shared; ++s)
    g.shared_weights.as<float>()[t * num_shared + s] *= scale[num_choices + s];
}

// Last: weights are what they will be.
void place_token(const GateTopk& g, const SlotsView& slots, int64_t t) {
  const int64_t top_k = g.ids.dim(1);
  for (int64_t at = t * top_k; at < (t + 1) * top_k; ++at) {
    int32_t& id = g.ids.as<int32_t>()[at];
    id = place_id(slots, id, t, g.weights.as<float>()[at]);
  }
}

}  // namespace

template <>
void run(const GateTopk& op, const Context& context) {
  const SlotsView slots(op.slots);
  const int64_t num_logits = op.logits.dim(1) / op.logit_parts;
  const int64_t num_choices =
      num_logits - (op.shared_weights.present() ? op.shared_weights.dim(1) : 0);
  context.pool.parallel_for(op.ids.dim(0), [&](int64_t t) {
    float own[kMaxExperts + kMaxScoredShared];
    const float* logits = logits_of(own, op, t, num_logits);
    route_token(op, t, logits, num_choices);
    if (op.expert_scale.present()) scale_by_expert(op, t, num_choices);
    if (op.slots.present()) place_token(op, slots, t);
  });
}

}  // namespace switchyard::cpu
