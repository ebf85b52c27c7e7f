// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/delta_rule_decode.cuh -- one step of the gated delta rule over paged states.
//
// A row of the state, Dk floats of one value index, needs no other row. So a block takes
// kDeltaRows<...> rows of one head of one sequence: eight lanes share a row, each keeps kVectors
// float4 of it in registers over all tokens of the step, and two sums over eight lanes per token
// are all that lanes exchange. A warp's load is four rows of 128 contiguous bytes. Queries, keys,
// values and betas of the step lie in shared memory, q and k normalised there by one warp each.
// Which block of the pool: plan/state_slots.h, the same answer for every thread. Each row is read
// by the thread that writes it, before it writes: a sequence may read and write one block.
// Memory bound: Dv Dk floats per head in and n times as many out; 7 flops per float and token.
#pragma once

#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "plan/state_slots.h"

namespace switchyard::cuda {

inline constexpr int kDeltaThreads = 128;
inline constexpr int kDeltaWarps = kDeltaThreads / 32;
inline constexpr int kRowLanes = 8;
inline constexpr int kDeltaPassRows = kDeltaThreads / kRowLanes;  // one row of every thread

// Of 16 KiB of state each. More would spill; key_dim 65 to 128 is what models have.
constexpr int delta_blocks_per_sm(int vectors) {
  return vectors == 4 ? 7 : vectors < 4 ? 5 : 4;
}

// q, k or v: [B, n, heads, width], its distances in elements.
struct StridedHeads {
  Numbers values;
  int64_t sequence, token, head;
};

struct DeltaRuleParams {
  void* output;  // [batch, num_tokens, num_value_heads, value_dim]
  float* state;  // [num_blocks, num_value_heads, value_dim, key_dim]
  StridedHeads q, k, v;
  Numbers g;     // [batch, num_tokens, num_value_heads]
  Numbers beta;  // the same, or one per value
  const int32_t* lengths;
  int32_t* status;
  StateTable table;
  int64_t block_stride;  // floats
  float scale;
  int num_tokens, num_value_heads, heads_per_key, value_dim, key_dim, tiles;
  bool output_is_f32, beta_per_value, l2_normalize;
};

__device__ __forceinline__ float sum_of_lanes(float x, int lanes) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    if (step < lanes) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

__device__ __forceinline__ void store_output(const DeltaRuleParams& p, int64_t at, float value) {
  if (p.output_is_f32)
    static_cast<float*>(p.output)[at] = value;
  else
    static_cast<__nv_bfloat16*>(p.output)[at] = __float2bfloat16_rn(value);
}

// dst [kWidth] = a row of q or k, normalised if asked for, times `by`; 0 past key_dim. For a warp.
template <int kWidth>
__device__ __forceinline__ void load_key_row(float* dst, const StridedHeads& src, int64_t at,
                                             const DeltaRuleParams& p, float by) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float x[kWidth / 32], squares = 0;
#pragma unroll
  for (int i = 0; i < kWidth / 32; ++i) {
    const int column = i * 32 + lane;
    x[i] = column < p.key_dim ? src.values[at + column] : 0.0f;
    squares += x[i] * x[i];
  }
  float norm = 1.0f;
  if (p.l2_normalize) norm = 1.0f / sqrtf(sum_of_lanes(squares, 32) + 1e-6f);
#pragma unroll
  for (int i = 0; i < kWidth / 32; ++i) dst[i * 32 + lane] = x[i] * norm * by;
}

// kVectors float4 of each of kRows rows per thread: key_dim <= 32 kVectors.
template <int kVectors, int kRows>
__global__
__launch_bounds__(kDeltaThreads, delta_blocks_per_sm(kVectors)) void delta_rule_decode_kernel(
    const __grid_constant__ DeltaRuleParams p) {
  constexpr int kWidth = 4 * kRowLanes * kVectors, kTileRows = kDeltaPassRows * kRows;
  __shared__ float4 q_shared[kMaxStepTokens][kWidth / 4], k_shared[kMaxStepTokens][kWidth / 4];
  __shared__ float v_shared[kMaxStepTokens][kTileRows], beta_shared[kMaxStepTokens][kTileRows];
  // By token here and not in registers: so the loop over tokens is not unrolled.
  __shared__ float decay_shared[kMaxStepTokens];
  __shared__ int64_t write_shared[kMaxStepTokens];
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % kRowLanes;
  const int first_value = static_cast<int>(blockIdx.x) % p.tiles * kTileRows;
  const int head = static_cast<int>(blockIdx.x) / p.tiles % p.num_value_heads;
  const int b = static_cast<int>(blockIdx.x) / p.tiles / p.num_value_heads;
  const int n = p.num_tokens, vectors = p.key_dim / 4;
  const int num_values = min(kTileRows, p.value_dim - first_value);
  const auto at_head = [&](int t) { return (int64_t{b} * n + t) * p.num_value_heads + head; };
  wait_for_predecessor();
  allow_successor();

  // What needs no state is on its way together with the length; later, with the state in registers,
  // none would be left for it.
  const int32_t length = p.lengths[b];
  constexpr int kPassTokens = kDeltaThreads / kTileRows,
                kPasses = (kMaxStepTokens + kPassTokens - 1) / kPassTokens;
  const int value_row = tid % kTileRows, value = first_value + value_row;
  float v[kPasses] = {}, beta[kPasses] = {};
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int t = i * kPassTokens + tid / kTileRows;
    if (t >= n || value_row >= num_values) continue;
    v[i] = p.v.values[b * p.v.sequence + t * p.v.token + head * p.v.head + value];
    beta[i] = p.beta[p.beta_per_value ? at_head(t) * p.value_dim + value : at_head(t)];
  }
  const float g = tid < n ? p.g[at_head(tid)] : 0.0f;
  const int key_head = head / p.heads_per_key;
#pragma unroll 1
  for (int job = warp; job < 2 * n; job += kDeltaWarps) {
    const int t = job / 2;
    const bool is_key = job % 2 == 1;
    const StridedHeads& src = is_key ? p.k : p.q;
    load_key_row<kWidth>(reinterpret_cast<float*>(is_key ? k_shared[t] : q_shared[t]), src,
                         b * src.sequence + t * src.token + key_head * src.head, p,
                         is_key ? 1.0f : p.scale);
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int t = i * kPassTokens + tid / kTileRows;
    if (t < n) v_shared[t][value_row] = v[i], beta_shared[t][value_row] = beta[i];
  }
  if (tid < n) decay_shared[tid] = expf(g);

  const StepPlan plan = plan_step(p.table, b, length, n);
  if (plan.faults != 0 && first_value == 0 && head == 0 && tid == 0)
    atomicOr(p.status + b, plan.faults);
  if (!plan.active || plan.refused) {
    const float value = plan.refused ? __int_as_float(0x7fc00000) : 0.0f;
    for (int i = tid; i < n * num_values; i += kDeltaThreads) {
      const int64_t at = at_head(i / num_values);
      store_output(p, at * p.value_dim + first_value + i % num_values, value);
    }
    return;  // the whole block
  }

#pragma unroll
  for (int t = 0; t < kMaxStepTokens; ++t)
    if (tid == t) write_shared[t] = plan.write[t];

  float4 h[kRows][kVectors];
  const int first_row = tid / kRowLanes;
  // Of this thread's first float4 in a block of the pool, and from row to row.
  const int64_t in_block = (int64_t{head} * p.value_dim + first_value + first_row) * vectors + lane;
  const int row_step = kDeltaPassRows * vectors;
  const float4* from =
      reinterpret_cast<const float4*>(p.state + plan.read * p.block_stride) + in_block;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      h[r][j] = float4{};
      if (plan.read != kNoBlock && r * kDeltaPassRows + first_row < num_values &&
          j * kRowLanes + lane < vectors)
        h[r][j] = __ldcs(from + r * row_step + j * kRowLanes);
    }
  }

  __syncthreads();

#pragma unroll 1
  for (int t = 0; t < n; ++t) {
    const float decay = decay_shared[t];
    float dot[kRows] = {}, out[kRows] = {}, d[kRows];
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const float4 k = k_shared[t][j * kRowLanes + lane];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float4& x = h[r][j];
        x.x *= decay, x.y *= decay, x.z *= decay, x.w *= decay;
        dot[r] = fmaf(x.x, k.x, fmaf(x.y, k.y, fmaf(x.z, k.z, fmaf(x.w, k.w, dot[r]))));
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = r * kDeltaPassRows + first_row;
      dot[r] = sum_of_lanes(dot[r], kRowLanes);  // lanes without a row still take part in the sums
      d[r] = row < num_values ? beta_shared[t][row] * (v_shared[t][row] - dot[r]) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const float4 k = k_shared[t][j * kRowLanes + lane];
      const float4 q = q_shared[t][j * kRowLanes + lane];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float4& x = h[r][j];
        x.x = fmaf(d[r], k.x, x.x), x.y = fmaf(d[r], k.y, x.y);
        x.z = fmaf(d[r], k.z, x.z), x.w = fmaf(d[r], k.w, x.w);
        out[r] = fmaf(x.x, q.x, fmaf(x.y, q.y, fmaf(x.z, q.z, fmaf(x.w, q.w, out[r]))));
      }
    }
    const int64_t block = write_shared[t];
    if (block != kNoBlock) {
      auto* to = reinterpret_cast<float4*>(p.state + block * p.block_stride) + in_block;
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int j = 0; j < kVectors; ++j)
          if (r * kDeltaPassRows + first_row < num_values && j * kRowLanes + lane < vectors)
            __stcs(to + r * row_step + j * kRowLanes, h[r][j]);
    }
    const int64_t output_at = at_head(t) * p.value_dim + first_value;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = r * kDeltaPassRows + first_row;
      out[r] = sum_of_lanes(out[r], kRowLanes);
      if (row < num_values && lane == 0) store_output(p, output_at + row, out[r]);
    }
  }
}

}  // namespace switchyard::cuda
