// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/path_ops.cuh -- what stands around the experts and beside the gate; the meaning is that
// of cpu/path_ops.cc. One thread per element, or one block per row. Memory bound.
#pragma once

#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "cuda/slot_tables.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

inline constexpr int kPathThreads = 256;

// Element i of a grid that walks in strides.
__device__ __forceinline__ int64_t first_element() {
  return int64_t{blockIdx.x} * kPathThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t element_stride() {
  return int64_t{gridDim.x} * kPathThreads;
}

__global__ __launch_bounds__(kPathThreads) void split_f32_kernel(__nv_bfloat16* __restrict__ dst,
                                                                 const float* __restrict__ src,
                                                                 int64_t count) {
  wait_for_predecessor();
  allow_successor();
  for (int64_t i = first_element(); i < count; i += element_stride()) {
    float rest = src[i];
    for (int part = 0; part < 3; ++part) {
      const __nv_bfloat16 value = __float2bfloat16_rn(rest);
      dst[part * count + i] = value;
      rest -= __bfloat162float(value);
    }
  }
}

__global__ __launch_bounds__(kPathThreads) void widen_kernel(float* __restrict__ dst,
                                                             const __nv_bfloat16* __restrict__ src,
                                                             int64_t count) {
  wait_for_predecessor();
  allow_successor();
  for (int64_t i = first_element(); i < count; i += element_stride()) dst[i] = to_float(src[i]);
}

// A thread per token. dst_ids may be ids.
__global__ __launch_bounds__(kPathThreads) void split_zero_experts_kernel(
    int32_t* dst_ids, float* __restrict__ identity, const int32_t* ids,
    const float* __restrict__ weights, int64_t num_tokens, int top_k, int64_t num_experts,
    int64_t num_ids, const __grid_constant__ SlotsView slots) {
  wait_for_predecessor();
  allow_successor();
  for (int64_t t = first_element(); t < num_tokens; t += element_stride()) {
    float sum = 0;
    for (int64_t at = t * top_k; at < (t + 1) * top_k; ++at) {
      const int32_t id = ids[at];
      const bool is_zero = id >= num_experts && id < num_ids;
      if (is_zero) sum += weights[at];
      dst_ids[at] = is_zero ? kNoExpert : place_id(slots, id, t, weights[at]);
    }
    identity[t] = sum;
  }
}

struct NormParams {
  __nv_bfloat16* dst;   // [T, width] or null; may be src
  float* inverse;       // [T] or null
  Numbers src;          // bf16 or f32 [T, width]
  const float* weight;  // [width], with dst
  int64_t width;
  float epsilon;
};

// A block per row. The order of summation depends on the width only.
__global__ __launch_bounds__(kPathThreads) void norm_rows_kernel(NormParams p) {
  __shared__ float sums[kPathThreads / 32];
  __shared__ float inverse;
  wait_for_predecessor();
  allow_successor();
  const int64_t first = int64_t{blockIdx.x} * p.width;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < p.width; i += kPathThreads) {
    const float x = p.src[first + i];
    squares = fmaf(x, x, squares);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (const float s : sums) sum += s;
    inverse = 1.0f / sqrtf(sum / static_cast<float>(p.width) + p.epsilon);
    if (p.inverse != nullptr) p.inverse[blockIdx.x] = inverse;
  }
  __syncthreads();
  if (p.dst == nullptr) return;
  for (int64_t i = threadIdx.x; i < p.width; i += kPathThreads)
    p.dst[first + i] = __float2bfloat16_rn(p.src[first + i] * inverse * p.weight[i]);
}

// A block per token.
__global__ __launch_bounds__(kPathThreads) void weigh_shared_kernel(
    float* __restrict__ dst, const float* __restrict__ src, const float* __restrict__ weights,
    int num_shared, int64_t width) {
  wait_for_predecessor();
  allow_successor();
  const int64_t token = blockIdx.x, num_tokens = gridDim.x;
  for (int64_t i = threadIdx.x; i < width; i += kPathThreads) {
    float sum = 0;
    for (int s = 0; s < num_shared; ++s)
      sum = fmaf(weights[token * num_shared + s], src[(s * num_tokens + token) * width + i], sum);
    dst[token * width + i] = sum;
  }
}

// A block per row; rows and scale may be null.
__global__ __launch_bounds__(kPathThreads) void add_rows_kernel(__nv_bfloat16* __restrict__ dst,
                                                                const float* __restrict__ src,
                                                                const float* __restrict__ rows,
                                                                const float* __restrict__ scale,
                                                                int64_t width) {
  wait_for_predecessor();
  allow_successor();
  const int64_t first = int64_t{blockIdx.x} * width;
  const float factor = scale != nullptr ? scale[blockIdx.x] : 1.0f;
  for (int64_t i = first + threadIdx.x; i < first + width; i += kPathThreads)
    dst[i] = __float2bfloat16_rn(rows != nullptr ? fmaf(factor, rows[i], src[i]) : src[i]);
}

}  // namespace switchyard::cuda
