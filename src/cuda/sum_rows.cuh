// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/sum_rows.cuh -- sums of rows that are here.
//
//     dst[r] = sum over i ascending of weights[r, i] * src[rows[r, i]] + scale[r] * addend[r]
//
// blockIdx.x walks the rows, blockIdx.y splits a row into pieces of 128 vectors of 16 bytes. A
// thread keeps 8 sums and has up to kSumLoads vectors on their way. Multiplication and addition
// round one after the other, as on the CPU, so that both give the same bits.
// Memory bound: reads at most R * K * H * 2 bytes (and 4 * H of each addend), writes R * H * 2.
#pragma once

#include "cuda/launch.h"
#include "cuda/row_sums.cuh"
#include "cuda/status.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

struct SumRowsParams {
  SumsOut out;  // [capacity, H]
  SlotSumsView terms;
  const int32_t* num_rows;  // [1] or null: capacity
  const int32_t* poison;    // a status, or null
  int capacity, vectors_per_row;
  int kept_begin, kept_size;  // rows that stay
  bool keeps_empty;
};

template <class Vector>
__global__ __launch_bounds__(kSumThreads) void sum_rows_kernel(
    const __grid_constant__ SumRowsParams p) {
  wait_for_predecessor();
  allow_successor();
  const int num_rows = p.num_rows ? min(p.num_rows[0], p.capacity) : p.capacity;
  const bool is_poisoned = p.poison && !is_good(p.poison);
  const int v = static_cast<int>(blockIdx.y) * kSumThreads + static_cast<int>(threadIdx.x);
  if (v >= p.vectors_per_row) return;
  for (int64_t i = blockIdx.x; i < num_rows; i += gridDim.x) {
    const int64_t r = i < p.kept_begin ? i : i + p.kept_size;
    if (r >= num_rows) break;
    float sums[8] = {};
    const bool has_terms = add_row<kSumLoads, Vector>(sums, p.terms, r, p.vectors_per_row, v);
    if (p.keeps_empty && !has_terms) continue;
    const int64_t at = r * p.vectors_per_row + v;
    is_poisoned ? store_nan(p.out, at) : store_sums(p.out, at, sums, r);
  }
}

}  // namespace switchyard::cuda
