// src/cuda/scatter_rows.cuh
//
//     dst[row_of_slot[r, k]] = src[r]   for rows r in [0, num_rows) and every k with a row
//
// blockIdx.x walks the rows, blockIdx.y splits a row into pieces of kVectors * 128 vectors of 16
// bytes: few rows still make many blocks. A thread reads its vectors once, then writes them K
// times. Memory bound: reads R * H * 2 bytes, writes at most R * K * H * 2.
#pragma once

#include "cuda/launch.h"
#include "ops/ops.h"

namespace switchyard::cuda {

inline constexpr int kScatterThreads = 128;
// Slots whose rows a thread knows before it writes.
inline constexpr int kScatterSlots = 8;

template <int kVectors>
__global__ __launch_bounds__(kScatterThreads) void scatter_rows_kernel(
    uint4* __restrict__ dst, const uint4* __restrict__ src, const int32_t* __restrict__ row_of_slot,
    const int32_t* __restrict__ num_rows, int capacity, int top_k, int vectors_per_row) {
  wait_for_predecessor();
  allow_successor();
  const int rows = min(num_rows[0], capacity);
  const int first =
      static_cast<int>(blockIdx.y) * kVectors * kScatterThreads + static_cast<int>(threadIdx.x);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    uint4 x[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      if (const int v = first + i * kScatterThreads; v < vectors_per_row)
        x[i] = src[r * vectors_per_row + v];
    for (int k = 0; k < top_k; k += kScatterSlots) {
      int32_t row[kScatterSlots];
#pragma unroll
      for (int j = 0; j < kScatterSlots; ++j)
        row[j] = k + j < top_k ? row_of_slot[r * top_k + k + j] : kNoRow;
#pragma unroll
      for (int j = 0; j < kScatterSlots; ++j) {
        if (row[j] == kNoRow) continue;
        uint4* to = dst + int64_t{row[j]} * vectors_per_row;
#pragma unroll
        for (int i = 0; i < kVectors; ++i)
          if (const int v = first + i * kScatterThreads; v < vectors_per_row) to[v] = x[i];
      }
    }
  }
}

}  // namespace switchyard::cuda
