// src/cuda/sum_rows.cuh -- gather_rows and sum_partials.
//
//     dst[r] = bf16(sum over i ascending of weights[r, i] * src[rows[r, i]] + scale[r] * addend[r])
//
// blockIdx.x walks the rows, blockIdx.y splits a row into pieces of 128 vectors of 16 bytes. A
// thread keeps 8 sums and has up to kSumLoads vectors on their way. Multiplication and addition
// round one after the other, as on the CPU, so that both give the same bits.
// Memory bound: reads at most R * K * H * 2 bytes (and 4 * H of each addend), writes R * H * 2.
#pragma once

#include "cuda/launch.h"
#include "cuda/row_sums.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

struct SumRowsParams {
  uint4* dst;               // bf16 [capacity, H]
  const uint4* src;         // bf16 [*, H]
  const int32_t* rows;      // [capacity, num_terms], kNoRow adds nothing
  const float* weights;     // [capacity, num_terms] or null: 1
  const float4* addend;     // f32 [capacity, H] or null
  const float* scale;       // [capacity] or null: 1
  const int32_t* num_rows;  // [1] or null: capacity
  int capacity, num_terms, vectors_per_row;
  EmptyRows empty;
};

__global__ __launch_bounds__(kSumThreads) void sum_rows_kernel(
    const __grid_constant__ SumRowsParams p) {
  wait_for_predecessor();
  allow_successor();
  const int num_rows = p.num_rows ? min(p.num_rows[0], p.capacity) : p.capacity;
  const int v = static_cast<int>(blockIdx.y) * kSumThreads + static_cast<int>(threadIdx.x);
  if (v >= p.vectors_per_row) return;
  for (int64_t r = blockIdx.x; r < num_rows; r += gridDim.x) {
    const int32_t* rows = p.rows + r * p.num_terms;
    const float* weights = p.weights ? p.weights + r * p.num_terms : nullptr;
    float sums[8] = {};
    bool has_terms = p.empty == EmptyRows::Zero;
    for (int i = 0; i < p.num_terms; i += kSumLoads) {
      int32_t row[kSumLoads];
      float weight[kSumLoads];
      uint4 x[kSumLoads];
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j) {
        row[j] = i + j < p.num_terms ? __ldg(rows + i + j) : kNoRow;
        weight[j] = weights && i + j < p.num_terms ? __ldg(weights + i + j) : 1.0f;
      }
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        if (row[j] != kNoRow) {
          x[j] = __ldg(p.src + int64_t{row[j]} * p.vectors_per_row + v);
          has_terms = true;
        }
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        if (row[j] != kNoRow) add_scaled(sums, weight[j], x[j]);
    }
    if (!has_terms) continue;
    const int64_t at = r * p.vectors_per_row + v;
    store_sums(p.dst, at, sums, p.addend, p.scale, r);
  }
}

}  // namespace switchyard::cuda
