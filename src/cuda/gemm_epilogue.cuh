// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/gemm_epilogue.cuh -- what follows a GEMM that could only store its fp32 sums: router
// weight, bias, activation, rounding. The meaning is that of cpu/grouped_gemm.cc.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "ops/ops.h"
#include "switchyard/config.h"

namespace switchyard::cuda {

// A grid of rows x columns. Each thread makes kColumns neighbours of one row.
struct EpilogueParams {
  void* dst;                // bf16 or f32 [C, width]
  const float* sums;        // f32 [C, n]; may be dst where nothing is gated
  const float* bias;        // f32 [E, n] or null
  const float* row_weight;  // f32, by slot, or null
  const int32_t* slot_of_row;
  const int32_t* counts;     // i32 [E]
  const int64_t* first_row;  // i64 [E + 1]
  int32_t num_experts;
  int64_t n;      // columns of sums
  int64_t width;  // columns of dst: n, or n / 2 when gated
  Activation activation;
  bool has_activation;
  int64_t gate_column;  // where the gate's columns begin in a row of sums
  int64_t up_column;    // where those of up begin; equal to gate_column without a gate
};

template <class Math>
__device__ __forceinline__ float activate(const Activation& a, float gate, float up) {
  float y = 0;
  Activations::visit(a.kind, [&]<ActivationKind kKind>() {
    y = ActivationRule<kKind>::of(Math(), gate, up, a.alpha, a.limit);
  });
  return y;
}

// The expert whose group has `row`, or kNoExpert. Groups may stand in any order, so the block looks
// at all of them side by side; at most one thread finds it. For whole blocks.
__device__ __forceinline__ int32_t expert_of_row(const EpilogueParams& p, int64_t row) {
  __shared__ int32_t found;
  if (threadIdx.x == 0) found = kNoExpert;
  __syncthreads();
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < p.num_experts; e += blockDim.x) {
    const int64_t place = row - p.first_row[e];
    if (place >= 0 && place < p.counts[e]) found = e;
  }
  __syncthreads();
  return found;
}

template <int kColumns>
struct alignas(kColumns * sizeof(float)) Floats {
  float at[kColumns];
};
template <int kColumns>
struct alignas(kColumns * sizeof(__nv_bfloat16)) Bf16s {
  __nv_bfloat16 at[kColumns];
};

template <int kColumns>
__device__ __forceinline__ Floats<kColumns> load(const float* address) {
  return *reinterpret_cast<const Floats<kColumns>*>(address);
}

template <class Out, int kColumns>
__device__ __forceinline__ void store(Out* address, const Floats<kColumns>& values) {
  if constexpr (std::is_same_v<Out, float>) {
    *reinterpret_cast<Floats<kColumns>*>(address) = values;
  } else {
    Bf16s<kColumns> rounded;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) rounded.at[i] = __float2bfloat16_rn(values.at[i]);
    *reinterpret_cast<Bf16s<kColumns>*>(address) = rounded;
  }
}

// sums[column ...] * scale + bias, of one half of W1.
template <int kColumns>
__device__ __forceinline__ Floats<kColumns> operand(const EpilogueParams& p, int64_t row,
                                                    int32_t expert, int64_t column, float scale) {
  Floats<kColumns> x = load<kColumns>(p.sums + row * p.n + column);
#pragma unroll
  for (int i = 0; i < kColumns; ++i) x.at[i] *= scale;
  if (p.bias == nullptr) return x;
  const auto bias = load<kColumns>(p.bias + expert * p.n + column);
#pragma unroll
  for (int i = 0; i < kColumns; ++i) x.at[i] += bias.at[i];
  return x;
}

// sums and dst may be one buffer: each thread reads its columns before it writes them.
template <class Out, int kColumns>
__global__ void gemm_epilogue_kernel(EpilogueParams p) {
  wait_for_predecessor();
  const int64_t row = blockIdx.x;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kColumns;
  const int32_t expert = expert_of_row(p, row);
  if (expert == kNoExpert || column >= p.width) return;

  const float scale = p.row_weight == nullptr ? 1.0f : p.row_weight[p.slot_of_row[row]];
  Floats<kColumns> out = operand<kColumns>(p, row, expert, p.gate_column + column, scale);
  if (p.has_activation) {
    const auto up = p.up_column == p.gate_column
                        ? out
                        : operand<kColumns>(p, row, expert, p.up_column + column, scale);
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
      out.at[i] = activate<ExactMath>(p.activation, out.at[i], up.at[i]);
  }
  store<Out>(static_cast<Out*>(p.dst) + row * p.width + column, out);
}

}  // namespace switchyard::cuda
