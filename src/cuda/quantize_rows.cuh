// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/quantize_rows.cuh -- Q128 of rows, a warp for each group of elements. Memory bound.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/gemm_epilogue.cuh"
#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "cuda/quantize.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

inline constexpr int kQuantThreads = 256;
inline constexpr int kWarpsPerBlock = kQuantThreads / 32;
// Elements of a lane at once: rows are a multiple of 8 elements, so a vector has no tail.
inline constexpr int kQuantVector = 4;
static_assert(kQuantGroup == 32 * kQuantVector);

// Four elements; NaN and infinity as they are.
__device__ __forceinline__ float4 load_four(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ float4 load_four(const __nv_bfloat16* p) {
  const uint2 x = *reinterpret_cast<const uint2*>(p);
  return {__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u),
          __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u)};
}

__device__ __forceinline__ uint32_t largest(uint32_t most, const float4& x) {
  return max(max(max(most, magnitude(x.x)), magnitude(x.y)), max(magnitude(x.z), magnitude(x.w)));
}

// Codes of four elements, in their order.
__device__ __forceinline__ uint32_t codes_of(const float4& x, const Quotient& quotient) {
  return two_codes(quotient(x.x), quotient(x.y)) | uint32_t{two_codes(quotient(x.z), quotient(x.w))}
                                                       << 16;
}

// Groups of kQuantGroup stay in registers; a longer one is read twice.
template <class Number, bool kLongGroups>
__global__ __launch_bounds__(kQuantThreads) void quantize_rows_kernel(
    uint8_t* __restrict__ dst, float* __restrict__ scales, const Number* __restrict__ src,
    const int32_t* __restrict__ num_rows, int64_t capacity, int64_t hidden, int64_t group,
    int64_t num_groups) {
  wait_for_predecessor();
  allow_successor();
  const int lane = threadIdx.x % 32;
  const int64_t warp = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / 32;
  const int64_t row = warp / num_groups, begin = warp % num_groups * group;
  if (row >= (num_rows ? int64_t{*num_rows} : capacity)) return;
  const int64_t count = min(group, hidden - begin);
  src += row * hidden + begin;
  dst += row * hidden + begin;

  const int first = lane * kQuantVector;
  float4 x = {0, 0, 0, 0};
  if (first < count) x = load_four(src + first);
  uint32_t most = largest(0, x);
  if constexpr (kLongGroups)
    for (int64_t i = first + kQuantGroup; i < count; i += kQuantGroup)
      most = largest(most, load_four(src + i));
  const float scale = scale_of(__reduce_max_sync(~0u, most));
  const Quotient quotient(scale);
  if (first < count) *reinterpret_cast<uint32_t*>(dst + first) = codes_of(x, quotient);
  if constexpr (kLongGroups)
    for (int64_t i = first + kQuantGroup; i < count; i += kQuantGroup)
      *reinterpret_cast<uint32_t*>(dst + i) = codes_of(load_four(src + i), quotient);
  if (lane == 0) scales[warp] = scale;
}

struct ActivatedParams {
  uint8_t* dst;              // e4m3 [C, width]
  float* scales;             // [C, num_groups]
  const float* sums;         // [C, n]
  const int32_t* counts;     // [E]
  const int64_t* first_row;  // [E + 1]
  int32_t num_experts;
  int64_t n, width, num_groups;
  Activation activation;
  int64_t gate_column, up_column;  // equal without a gate
};

// Whether some group has the block's row. For whole blocks.
__device__ __forceinline__ bool is_used(const ActivatedParams& p, int64_t row) {
  bool found = false;
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < p.num_experts; e += kQuantThreads) {
    const int64_t place = row - p.first_row[e];
    found |= place >= 0 && place < p.counts[e];
  }
  return __syncthreads_or(found) != 0;
}

// A grid of rows x kWarpsPerBlock groups. The arithmetic is that of the GEMM's epilogue, for the same
// bits.
static __global__ __launch_bounds__(kQuantThreads) void quantize_activated_kernel(
    ActivatedParams p) {
  wait_for_predecessor();
  allow_successor();
  const int64_t row = blockIdx.x;
  if (!is_used(p, row)) return;
  const int lane = threadIdx.x % 32;
  const int64_t group = int64_t{blockIdx.y} * kWarpsPerBlock + threadIdx.x / 32;
  if (group >= p.num_groups) return;
  const int64_t column = group * kQuantGroup + lane * kQuantVector;
  float4 y = {0, 0, 0, 0};
  if (column < p.width) {
    const float* sums = p.sums + row * p.n + column;
    const float4 gate = load_four(sums + p.gate_column), up = load_four(sums + p.up_column);
    const auto y_of = [&](float g, float u) { return activate<FastMath>(p.activation, g, u); };
    y = {y_of(gate.x, up.x), y_of(gate.y, up.y), y_of(gate.z, up.z), y_of(gate.w, up.w)};
  }
  const float scale = scale_of(__reduce_max_sync(~0u, largest(0, y)));
  if (column < p.width)
    *reinterpret_cast<uint32_t*>(p.dst + row * p.width + column) = codes_of(y, Quotient(scale));
  if (lane == 0) p.scales[row * p.num_groups + group] = scale;
}

}  // namespace switchyard::cuda
