// src/cpu/gate_topk.cc -- logits -> expert ids and weights, all in fp32, one token at a time.
#include "cpu/gate_topk.h"

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

// One token's scores, computed once; 20 KiB of stack, so nothing is allocated.
class Token {
 public:
  Token(const float* logits, const float* bias, int64_t num_experts, const GateConfig& gate)
      : logits_(logits), num_experts_(num_experts), gate_(gate) {
    if (gate.scoring == Scoring::Softmax) {
      max_ = *std::max_element(logits, logits + num_experts);
      for (int64_t e = 0; e < num_experts; ++e) sum_ += std::exp(logits[e] - max_);
    }
    // A sigmoid saturates: where nothing is added to it, its logit orders experts alike and better.
    const bool by_logit = gate.scoring == Scoring::Sigmoid && !bias && gate.num_groups == 1;
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

void route_token(int32_t* ids, float* weights, const float* logits, const float* bias,
                 int64_t num_experts, int64_t top_k, const GateConfig& gate) {
  if (gate.scoring == Scoring::SparseMixer) {
    sparse_mixer(ids, weights, logits, num_experts, gate.jitter_epsilon);
  } else {
    Token token(logits, bias, num_experts, gate);
    token.choose(ids, top_k);
    if (gate.scoring == Scoring::SoftmaxOfTopK)
      softmax_of_chosen(weights, logits, ids, top_k);
    else
      for (int64_t k = 0; k < top_k; ++k) weights[k] = token.score(ids[k]);
  }
  scale_weights(weights, top_k, gate);
}

}  // namespace

void gate_topk(Tensor ids, Tensor weights, ConstTensor logits, ConstTensor correction_bias,
               const GateConfig& gate, ThreadPool& pool) {
  const int64_t num_experts = logits.dim(1), top_k = ids.dim(1);
  const float* bias = correction_bias.present() ? correction_bias.as<float>() : nullptr;
  pool.parallel_for(logits.dim(0), [&](int64_t t) {
    route_token(ids.as<int32_t>() + t * top_k, weights.as<float>() + t * top_k,
                logits.as<float>() + t * num_experts, bias, num_experts, top_k, gate);
  });
}

}  // namespace switchyard::cpu
