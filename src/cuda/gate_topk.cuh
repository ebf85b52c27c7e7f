// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/gate_topk.cuh -- logits -> expert ids and weights in fp32; the rules: cpu/gate_topk.cc.
//
// One warp per token. Scores stand in shared memory as unsigned keys that order like the scores;
// expert e belongs to lane e % 32. A choice is two warp reductions over the best key of each lane
// (highest key, then lowest id). Up to 512 experts a lane has its keys in registers; beyond, only the
// lane that lost its best looks at its keys again.
// Reads T * E * 4 bytes; bound by latency: K dependent choices of about E / 16 + 50 cycles.
#pragma once

#include <climits>
#include <cmath>

#include "cuda/launch.h"
#include "cuda/slot_tables.cuh"
#include "ops/gate_ops.h"
#include "switchyard/config.h"

namespace switchyard::cuda {

// What few gates have. Null or 0: absent.
struct GateExtras {
  float* shared_weights;         // [T, num_shared]
  const float* row_scale;        // [T]
  const float* logit_bias;       // [N]
  const float* expert_scale;     // [N]
  const void* token_ids;         // [T]
  const int32_t* token_experts;  // [num_token_ids, K]
  int64_t num_token_ids;
  int num_shared, num_parts;
  bool wide_token_ids;  // i64, not i32
};

struct GateTopkParams {
  int32_t* ids;         // [T, K]
  float* weights;       // [T, K]
  const float* logits;  // [T, num_parts * (E + num_shared)]; E counts zero experts
  const float* bias;    // [E] or null
  int64_t num_tokens;
  int num_experts, top_k;
  int num_groups, num_groups_kept;
  int words_per_token;  // of shared memory
  GateConfig gate;
  GateExtras extras;
  SlotsView slots;
};

inline constexpr int kGateMaxWarps = 4;

// Shared memory of one token: E keys, K ids, K weights, then the keys of the groups if any is
// dropped.
constexpr int64_t gate_words(int64_t num_experts, int64_t top_k, int64_t num_groups) {
  return num_experts + 2 * top_k + num_groups;
}

// No key of a score is 0: it marks what may not be chosen.
inline constexpr uint32_t kNotChoosable = 0;

// Orders like the float; -0 equals 0, and NaN is as bad as -inf.
__device__ __forceinline__ uint32_t order_key(float score) {
  if (isnan(score)) score = -INFINITY;
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 becomes 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float score_of_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

__device__ __forceinline__ float softplus(float x) {  // log(1 + exp(x)), without overflow
  return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

// A token's logits. Without extras they are what stands there.
template <bool kExtras>
struct Logits {
  const float* at;
  const GateTopkParams& p;
  float scale;

  __device__ Logits(const GateTopkParams& params, int64_t token) : p(params), scale(1) {
    const GateExtras& x = p.extras;
    at =
        p.logits + token * (kExtras ? x.num_parts * (p.num_experts + x.num_shared) : p.num_experts);
    if (kExtras && x.row_scale != nullptr) scale = x.row_scale[token];
  }
  __device__ float operator[](int e) const {
    if constexpr (!kExtras) return at[e];
    const GateExtras& x = p.extras;
    float logit = 0;
    for (int part = x.num_parts - 1; part >= 0; --part)
      logit += at[part * (p.num_experts + x.num_shared) + e];
    logit *= scale;
    if (x.logit_bias != nullptr) logit += x.logit_bias[e];
    const float cap = p.gate.logit_softcap;
    return cap > 0 ? cap * tanhf(logit / cap) : logit;
  }
};

// What turns one logit into a score; max and sum are those of a softmax over all experts.
struct Scorer {
  Scoring scoring;
  float max = 0, sum = 0;

  __device__ float operator()(float logit) const {
    if (scoring == Scoring::Softmax) return expf(logit - max) / sum;
    if (scoring == Scoring::Sigmoid) return 1.0f / (1.0f + expf(-logit));
    if (scoring == Scoring::SqrtSoftplus) return sqrtf(softplus(logit));
    return logit;
  }
};

// keys[e] = what decides the choice of e. Lanes touch their own experts only.
template <class Logits>
__device__ __forceinline__ Scorer score_experts(uint32_t* keys, const Logits& logits,
                                                const GateTopkParams& p, int lane) {
  Scorer score{p.gate.scoring};
  float max = -INFINITY;
#pragma unroll 8
  for (int e = lane; e < p.num_experts; e += 32) {
    const float logit = logits[e];
    keys[e] = __float_as_uint(logit);
    max = fmaxf(max, logit);
  }
  if (score.scoring == Scoring::Softmax) {
    score.max = warp_max(max);
    float sum = 0;
    for (int e = lane; e < p.num_experts; e += 32)
      sum += expf(__uint_as_float(keys[e]) - score.max);
    score.sum = warp_sum(sum);
  }
  // Scores saturate: where nothing is added to them, logits order experts alike and better.
  const bool by_logit = !p.bias && p.num_groups == 1;
  for (int e = lane; e < p.num_experts; e += 32) {
    const float logit = __uint_as_float(keys[e]);
    const float own = by_logit ? logit : score(logit);
    keys[e] = order_key(p.bias ? own + p.bias[e] : own);
  }
  __syncwarp();
  return score;
}

// Makes the experts of all but the best groups unchoosable; equal groups by number.
__device__ __forceinline__ void drop_groups(uint32_t* keys, uint32_t* group_keys,
                                            const GateTopkParams& p, int lane) {
  const int size = p.num_experts / p.num_groups;
  const uint32_t worst = order_key(-INFINITY);
  for (int g = 0; g < p.num_groups; ++g) {
    uint32_t first = worst, second = worst;  // of this lane
    for (int i = lane; i < size; i += 32) {
      const uint32_t key = keys[g * size + i];
      second = max(second, min(first, key));
      first = max(first, key);
    }
    const uint32_t best = __reduce_max_sync(~0u, first);
    const int holder = __ffs(__ballot_sync(~0u, first == best)) - 1;
    const uint32_t next = __reduce_max_sync(~0u, lane == holder ? second : first);
    const bool alone = p.gate.group_score == GroupScore::Max || size == 1;
    if (lane == 0)
      group_keys[g] = alone ? best : order_key(score_of_key(best) + score_of_key(next));
  }
  __syncwarp();
  for (int base = 0; base < p.num_groups; base += 32) {
    const int g = base + lane;
    int num_ahead = 0;
    if (g < p.num_groups)
      for (int other = 0; other < p.num_groups; ++other)
        num_ahead +=
            group_keys[other] > group_keys[g] || (group_keys[other] == group_keys[g] && other < g);
    unsigned dropped = __ballot_sync(~0u, g < p.num_groups && num_ahead >= p.num_groups_kept);
    for (; dropped != 0; dropped &= dropped - 1) {
      uint32_t* group = keys + (base + __ffs(dropped) - 1) * size;
      for (int i = lane; i < size; i += 32) group[i] = kNotChoosable;
    }
  }
  __syncwarp();
}

// ids[k] = the k-th best of the choosable experts, of which a lane has at most kKeys.
template <int kKeys>
__device__ __forceinline__ void choose_in_registers(int32_t* ids, const uint32_t* keys,
                                                    const GateTopkParams& p, int lane) {
  uint32_t mine[kKeys];
#pragma unroll
  for (int j = 0; j < kKeys; ++j)
    mine[j] = lane + 32 * j < p.num_experts ? keys[lane + 32 * j] : kNotChoosable;
  for (int k = 0; k < p.top_k; ++k) {
    uint32_t best = kNotChoosable;
    int at = 0;
#pragma unroll
    for (int j = 0; j < kKeys; ++j)
      if (mine[j] > best) best = mine[j], at = j;
    const uint32_t highest = __reduce_max_sync(~0u, best);
    const auto own = static_cast<uint32_t>(lane + 32 * at);
    const uint32_t id = __reduce_min_sync(~0u, best == highest ? own : UINT_MAX);
    if (lane == 0) ids[k] = static_cast<int32_t>(id);
#pragma unroll
    for (int j = 0; j < kKeys; ++j)
      if (own == id && at == j) mine[j] = kNotChoosable;
  }
  __syncwarp();
}

// The same of any number, in shared memory.
__device__ __forceinline__ void choose(int32_t* ids, uint32_t* keys, const GateTopkParams& p,
                                       int lane) {
  uint32_t best_key = kNotChoosable, best_id = UINT_MAX;
  const auto find_best = [&] {
    best_key = kNotChoosable;
    best_id = UINT_MAX;
#pragma unroll 8
    for (int e = lane; e < p.num_experts; e += 32)
      if (const uint32_t key = keys[e]; key > best_key) {
        best_key = key;
        best_id = static_cast<uint32_t>(e);
      }
  };
  find_best();
  for (int k = 0; k < p.top_k; ++k) {
    const uint32_t highest = __reduce_max_sync(~0u, best_key);
    const uint32_t id = __reduce_min_sync(~0u, best_key == highest ? best_id : UINT_MAX);
    if (lane == 0) ids[k] = static_cast<int32_t>(id);
    if (best_id == id) {
      keys[id] = kNotChoosable;
      find_best();
    }
    __syncwarp();
  }
}

// weights[k] = the score of the chosen alone, without the bias that only the choice sees.
template <class Logits>
__device__ __forceinline__ void weigh(float* weights, const int32_t* ids, const Logits& logits,
                                      const Scorer& score, const GateTopkParams& p, int lane) {
  if (score.scoring != Scoring::SoftmaxOfTopK) {
    for (int k = lane; k < p.top_k; k += 32) weights[k] = score(logits[ids[k]]);
    return;
  }
  float max = -INFINITY, sum = 0;
  for (int k = lane; k < p.top_k; k += 32) max = fmaxf(max, logits[ids[k]]);
  max = warp_max(max);
  for (int k = lane; k < p.top_k; k += 32) sum += weights[k] = expf(logits[ids[k]] - max);
  sum = warp_sum(sum);
  for (int k = lane; k < p.top_k; k += 32) weights[k] /= sum;
}

// phimoe: each of two experts is weighted by a softmax over the logits that are close to it, among
// those left.
template <class Logits>
__device__ __forceinline__ void weigh_sparse_mixer(float* weights, const int32_t* ids,
                                                   const Logits& logits, const GateTopkParams& p,
                                                   int lane) {
  for (int k = 0; k < 2; ++k) {
    const float max = logits[ids[k]];
    float sum = 0;
    for (int e = lane; e < p.num_experts; e += 32) {
      const float logit = logits[e], size = fabsf(logit);
      const float factor = size < max ? max : size;  // a NaN stays
      const bool far = (max - logit) / factor > 2 * p.gate.jitter_epsilon;
      if (!far && (k == 0 || e != ids[0])) sum += expf(logit - max);
    }
    sum = warp_sum(sum);
    if (lane == 0) weights[k] = 1.0f / sum;
  }
  __syncwarp();
}

// ids[k] from the table; false where there is no such token: its ids are ones that no layer
// accepts.
__device__ __forceinline__ bool choose_by_token(int32_t* ids, const GateTopkParams& p,
                                                int64_t token, int lane) {
  const GateExtras& x = p.extras;
  const int64_t id = x.wide_token_ids ? static_cast<const int64_t*>(x.token_ids)[token]
                                      : static_cast<const int32_t*>(x.token_ids)[token];
  const bool known = id >= 0 && id < x.num_token_ids;
  for (int k = lane; k < p.top_k; k += 32)
    ids[k] = known ? x.token_experts[id * p.top_k + k] : INT_MIN;
  __syncwarp();
  return known;
}

// Renormalised sigmoids of the chosen and of every scored shared expert, all of which may be too
// small for a float: a softmax over log(sigmoid). There are at most 32 shared ones.
template <class Logits>
__device__ __forceinline__ void weigh_with_shared(float* weights, const int32_t* ids,
                                                  const Logits& logits, const GateTopkParams& p,
                                                  int64_t token, int lane) {
  const GateExtras& x = p.extras;
  const bool has_shared = lane < x.num_shared;
  float shared = has_shared ? -softplus(-logits[p.num_experts + lane]) : -INFINITY, max = shared;
  for (int k = lane; k < p.top_k; k += 32)
    max = fmaxf(max, weights[k] = -softplus(-logits[ids[k]]));
  max = warp_max(max);
  shared = has_shared ? expf(shared - max) : 0.0f;
  float sum = shared;
  for (int k = lane; k < p.top_k; k += 32) sum += weights[k] = expf(weights[k] - max);
  sum = warp_sum(sum);
  const float last =
      x.expert_scale != nullptr && has_shared ? x.expert_scale[p.num_experts + lane] : 1.0f;
  if (has_shared)
    x.shared_weights[token * x.num_shared + lane] = shared / sum * p.gate.scale * last;
  for (int k = lane; k < p.top_k; k += 32) weights[k] = weights[k] / sum;
}

// The sum that the weights are divided by.
__device__ __forceinline__ float divisor_of(const float* weights, const GateTopkParams& p,
                                            int lane) {
  if (!p.gate.renormalize || p.extras.num_shared > 0) return 1;
  float sum = 0;
  for (int k = lane; k < p.top_k; k += 32) sum += weights[k];
  sum = warp_sum(sum);
  const float epsilon = p.gate.renormalize_epsilon;
  return !p.gate.clamp_renormalizer ? sum + epsilon : sum < epsilon ? epsilon : sum;
}

// A token's choice, by one warp with gate_words of shared memory.
template <bool kExtras, class Logits>
__device__ __forceinline__ void choose_for_token(const GateTopkParams& p, int64_t token,
                                                 const Logits& logits, uint32_t* keys) {
  const int lane = threadIdx.x % 32;
  auto* ids = reinterpret_cast<int32_t*>(keys + p.num_experts);
  auto* weights = reinterpret_cast<float*>(ids + p.top_k);
  auto* group_keys = reinterpret_cast<uint32_t*>(weights + p.top_k);

  const Scorer score = score_experts(keys, logits, p, lane);
  bool known = true;
  if (kExtras && p.extras.token_experts != nullptr) {
    known = choose_by_token(ids, p, token, lane);
  } else {
    if (p.num_groups > p.num_groups_kept) drop_groups(keys, group_keys, p, lane);
    if (p.num_experts <= 128)
      choose_in_registers<4>(ids, keys, p, lane);
    else if (p.num_experts <= 512)
      choose_in_registers<16>(ids, keys, p, lane);
    else
      choose(ids, keys, p, lane);
  }
  if (!known)
    for (int k = lane; k < p.top_k; k += 32) weights[k] = 0;
  else if (kExtras && p.extras.num_shared > 0)
    weigh_with_shared(weights, ids, logits, p, token, lane);
  else if (score.scoring == Scoring::SparseMixer)
    weigh_sparse_mixer(weights, ids, logits, p, lane);
  else
    weigh(weights, ids, logits, score, p, lane);

  const float divisor = known ? divisor_of(weights, p, lane) : 1;
  for (int k = lane; k < p.top_k; k += 32) {
    const float last =
        kExtras && known && p.extras.expert_scale != nullptr ? p.extras.expert_scale[ids[k]] : 1.0f;
    const float weight = weights[k] / divisor * p.gate.scale * last;
    p.ids[token * p.top_k + k] = place_id(p.slots, ids[k], token, weight);
    p.weights[token * p.top_k + k] = weight;
  }
}

template <bool kExtras>
__global__ __launch_bounds__(kGateMaxWarps *
                             32) void gate_topk_kernel(const __grid_constant__ GateTopkParams p) {
  extern __shared__ __align__(16) uint32_t words[];
  wait_for_predecessor();
  allow_successor();
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int64_t token = int64_t{blockIdx.x} * (blockDim.x / 32) + warp;
  if (token >= p.num_tokens) return;  // a whole warp; there is no barrier of the block
  choose_for_token<kExtras>(p, token, Logits<kExtras>(p, token), words + warp * p.words_per_token);
}

// What the kernel is given for an operation.
GateTopkParams params_of(const GateTopk& op);
// Whether it has none of the extras.
bool is_plain(const GateTopk& op);

}  // namespace switchyard::cuda
