// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/arrange_weights.cuh -- a square of a matrix through shared memory: both sides move whole
// rows of it, whether it is transposed or not.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "plan/index.h"

namespace switchyard::cuda {

inline constexpr int kSquare = 32;      // rows and columns of a block
inline constexpr int kSquareWarps = 8;  // each moves every eighth of them

struct ArrangeParams {
  int64_t num_rows, width;            // of dst: N, H
  int64_t row_blocks, column_blocks;  // a block of threads each, experts outermost
  bool transposed, interleaved;

  __device__ int64_t source_row(int64_t n) const {
    return interleaved ? interleaved_row(n, num_rows) : n;
  }
};

template <class From, class To>
__global__ __launch_bounds__(kSquare* kSquareWarps) void arrange_weights_kernel(
    To* __restrict__ dst, const From* __restrict__ src, const __grid_constant__ ArrangeParams p) {
  __shared__ From square[kSquare][kSquare + 1];  // [row of dst][column]; no two lanes in one bank
  const int64_t column_block = blockIdx.x % p.column_blocks;
  const int64_t row_block = blockIdx.x / p.column_blocks % p.row_blocks;
  const int64_t expert = blockIdx.x / p.column_blocks / p.row_blocks;
  const int64_t first_row = row_block * kSquare, first_column = column_block * kSquare;
  const int lane = threadIdx.x % kSquare, warp = threadIdx.x / kSquare;
  wait_for_predecessor();
  allow_successor();
  src += expert * p.num_rows * p.width;
  dst += expert * p.num_rows * p.width;
  for (int i = warp; i < kSquare; i += kSquareWarps) {
    const int row = p.transposed ? lane : i, column = p.transposed ? i : lane;
    const int64_t n = first_row + row, c = first_column + column;
    if (n >= p.num_rows || c >= p.width) continue;
    const int64_t from = p.source_row(n);
    square[row][column] = src[p.transposed ? c * p.num_rows + from : from * p.width + c];
  }
  __syncthreads();
  for (int i = warp; i < kSquare; i += kSquareWarps) {
    const int64_t n = first_row + i, c = first_column + lane;
    if (n < p.num_rows && c < p.width) dst[n * p.width + c] = static_cast<To>(square[i][lane]);
  }
}

}  // namespace switchyard::cuda
