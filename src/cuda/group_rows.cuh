// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/group_rows.cuh -- groups from the expert of every row.
//
// A row whose predecessor has another expert begins a group, one whose successor has another ends
// it. Each expert keeps the lowest row that begins a group of it and the highest that ends one:
// minima and maxima commute, so no bit depends on who runs first. That is the group, unless an
// expert begins twice; only then rows are read again, for the lowest one at fault.
// One block: 4 bytes per row (its neighbours' come from L1), 8 rows of a thread on their way at
// once. Bound by latency.
#pragma once

#include <climits>

#include "cuda/launch.h"
#include "cuda/status.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

inline constexpr int kGroupThreads = 1024;
inline constexpr int kRowsAtOnce = 8;

struct GroupRowsParams {
  const int32_t* row_expert;  // [num_rows]
  int32_t* counts;            // [E]
  int64_t* first_row;         // [E + 1]
  int32_t* status;
  int64_t num_rows;
  int num_experts, rank;
};

// Two words per expert.
constexpr size_t group_rows_smem_bytes(int64_t num_experts) {
  return static_cast<size_t>(num_experts) * 2 * sizeof(int32_t);
}

// The expert of a row; none before the first and past the last.
__device__ __forceinline__ int32_t row_expert_at(const GroupRowsParams& p, int64_t row) {
  return row >= 0 && row < p.num_rows ? p.row_expert[row] : kNoExpert;
}

// Fills first[e] and end[e] of each expert that has rows. True where a row is at fault, to the
// thread that saw it.
__device__ __forceinline__ bool find_groups(const GroupRowsParams& p, int32_t* first,
                                            int32_t* end) {
  constexpr int64_t kStep = int64_t{kGroupThreads} * kRowsAtOnce;
  bool fault = false;
  for (int64_t base = threadIdx.x; base < p.num_rows; base += kStep) {
    int32_t expert[kRowsAtOnce], before[kRowsAtOnce], after[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int64_t row = base + i * kGroupThreads;
      expert[i] = row_expert_at(p, row);
      before[i] = row_expert_at(p, row - 1);
      after[i] = row_expert_at(p, row + 1);
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int32_t e = expert[i], row = static_cast<int32_t>(base + i * kGroupThreads);
      if (!is_expert(e, p.num_experts)) {
        fault |= e != kNoExpert;
        continue;
      }
      if (before[i] != e) fault |= atomicMin(&first[e], row) != INT_MAX;  // it began before
      if (after[i] != e) atomicMax(&end[e], row + 1);
    }
  }
  return fault;
}

// Notes the lowest row at fault. For whole blocks.
__device__ inline void note_first_fault(const GroupRowsParams& p, const int32_t* first) {
  __shared__ int lowest;
  if (threadIdx.x == 0) lowest = INT_MAX;
  __syncthreads();
  for (int64_t row = threadIdx.x; row < p.num_rows; row += kGroupThreads) {
    const int32_t e = p.row_expert[row];
    const bool resumes = is_expert(e, p.num_experts) && row_expert_at(p, row - 1) != e &&
                         first[e] != static_cast<int32_t>(row);
    if (resumes || !is_valid_id(e, p.num_experts)) atomicMin(&lowest, static_cast<int>(row));
  }
  __syncthreads();
  if (threadIdx.x == 0)
    note_status(p.status, Errc::BadRouting, StatusDetail::RowsNotGrouped, p.rank, lowest);
}

__global__ __launch_bounds__(kGroupThreads) void group_rows_kernel(
    const __grid_constant__ GroupRowsParams p) {
  extern __shared__ int32_t first[];  // [E]
  int32_t* end = first + p.num_experts;
  for (int e = threadIdx.x; e < p.num_experts; e += kGroupThreads) first[e] = INT_MAX, end[e] = 0;
  wait_for_predecessor();
  allow_successor();
  __syncthreads();

  const bool fault = __syncthreads_or(find_groups(p, first, end));
  for (int e = threadIdx.x; e < p.num_experts; e += kGroupThreads) {
    const bool has_rows = !fault && end[e] > 0;
    p.counts[e] = has_rows ? end[e] - first[e] : 0;
    p.first_row[e] = has_rows ? first[e] : 0;
  }
  if (threadIdx.x == 0) p.first_row[p.num_experts] = p.num_rows;
  if (fault) note_first_fault(p, first);
}

}  // namespace switchyard::cuda
