// src/cuda/sum_rows.cuh -- gather_rows and sum_partials, and both among ranks that reach into each
// other's memory.
//
//     dst[r] = bf16(sum over i ascending of weights[r, i] * src[rows[r, i] + i * stride]
//                   + scale[r] * addend[r])
//
// blockIdx.x walks the rows, blockIdx.y splits a row into pieces of 128 vectors of 16 bytes. A
// thread keeps 8 sums and has up to kSumLoads vectors on their way. Multiplication and addition
// round one after the other, as on the CPU, so that both give the same bits.
// Memory bound: reads at most R * K * H * 2 bytes (and 4 * H of each addend), writes R * H * 2.
#pragma once

#include "cuda/peer_window.cuh"
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
  int64_t term_stride;
  int capacity, num_terms, vectors_per_row;
};

// Every row where it belongs, one after the other.
struct RowsHere {
  __device__ int64_t steps(int64_t num_rows) const { return num_rows; }
  __device__ int64_t row_of_step(int64_t step, int64_t) const { return step; }
  __device__ uint4* row(const SumRowsParams& p, int64_t r) const {
    return p.dst + r * p.vectors_per_row;
  }
  __device__ void finish() const {}
};

// Each row to the rank it came from: dst is where this rank's block begins in `returned`. Rows
// stand by that rank, so a step takes one of each share of them: memory and all links are busy at
// once.
struct RowsGoBack {
  WindowView window;
  const int32_t* starts;  // [P]

  __device__ int64_t share(int64_t num_rows) const {
    return (num_rows + window.num_ranks - 1) / window.num_ranks;
  }
  __device__ int64_t steps(int64_t num_rows) const { return share(num_rows) * window.num_ranks; }
  // num_rows or more: none.
  __device__ int64_t row_of_step(int64_t step, int64_t num_rows) const {
    return step % window.num_ranks * share(num_rows) + step / window.num_ranks;
  }
  __device__ uint4* row(const SumRowsParams& p, int64_t r) const {
    int from = window.num_ranks - 1;
    while (from > 0 && r < __ldg(starts + from)) --from;
    return window.at_peer(from, p.dst) + (r - __ldg(starts + from)) * p.vectors_per_row;
  }
  // A peer that is told of these rows sees them.
  __device__ void finish() const { __threadfence_system(); }
};

template <class Place>
__global__ __launch_bounds__(kSumThreads) void sum_rows_kernel(
    const __grid_constant__ SumRowsParams p, const __grid_constant__ Place place) {
  wait_for_predecessor();
  allow_successor();
  const int num_rows = p.num_rows ? min(p.num_rows[0], p.capacity) : p.capacity;
  const int v = static_cast<int>(blockIdx.y) * kSumThreads + static_cast<int>(threadIdx.x);
  if (v >= p.vectors_per_row) return;
  const int64_t num_steps = place.steps(num_rows);
  for (int64_t step = blockIdx.x; step < num_steps; step += gridDim.x) {
    const int64_t r = place.row_of_step(step, num_rows);
    if (r >= num_rows) continue;
    const int32_t* rows = p.rows + r * p.num_terms;
    const float* weights = p.weights ? p.weights + r * p.num_terms : nullptr;
    float sums[8] = {};
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
        if (row[j] != kNoRow)
          x[j] = __ldg(p.src + (row[j] + (i + j) * p.term_stride) * p.vectors_per_row + v);
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        if (row[j] != kNoRow) add_scaled(sums, weight[j], x[j]);
    }
    add_addend(sums, p.addend, p.scale, r, r * p.vectors_per_row + v);
    place.row(p, r)[v] = packed(sums);
  }
  place.finish();
}

}  // namespace switchyard::cuda
