// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/mma_stage.cuh -- a stage of rows of 256 bytes in shared memory, that threads copied, and
// its product by mma.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "strategy/gemm_configs.h"

namespace switchyard::cuda {

// A stage's rows of 256 bytes: piece j of row r is where no eight rows of a matrix share banks.
__device__ __forceinline__ int stage_offset(int row, int piece) {
  return row * kStreamRowBytes + ((piece ^ (row % 8)) * 16);
}

// sums += the warp's 16 weight rows x 8 kBlocks rows, over 16 of a stage.
template <int kBlocks>
__device__ __forceinline__ void multiply_k16(float* sums, const uint8_t* weights,
                                             const uint8_t* rows, int k) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t a[4], b[kBlocks / 2 + 1][4];
  ptx::ldmatrix_x4(a, weights + stage_offset(warp * 16 + lane % 16, 2 * k + lane / 16));
  const int row = lane / 16 * 8 + lane % 8, piece = 2 * k + lane / 8 % 2;
#pragma unroll
  for (int j = 0; j + 2 <= kBlocks; j += 2)
    ptx::ldmatrix_x4(b[j / 2], rows + stage_offset(j * 8 + row, piece));
  if constexpr (kBlocks % 2 == 1)
    ptx::ldmatrix_x2(b[kBlocks / 2], rows + stage_offset((kBlocks - 1) * 8 + lane % 8, piece));
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
    ptx::mma_m16n8k16(sums + 4 * j, a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
}

}  // namespace switchyard::cuda
