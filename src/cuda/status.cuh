// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/status.cuh -- status words as kernels see them; their meaning is in base/status.h.
//
// Which error is noted must not depend on the order in which blocks run. So exactly one thread of a
// kernel notes, after its block has found that no earlier slot has an error.
#pragma once

#include <climits>

#include "base/status.h"
#include "plan/index.h"

namespace switchyard::cuda {

__device__ __forceinline__ bool is_good(const int32_t* status) {
  return status[0] == 0;
}

__device__ __forceinline__ void write_status(int32_t* status, Errc code, StatusDetail detail,
                                             int rank, int64_t value) {
  status[0] = static_cast<int32_t>(code);
  status[1] = static_cast<int32_t>(detail);
  status[2] = rank;
  status[3] = low_half(value);
  status[4] = high_half(value);
}

// The first error stays.
__device__ __forceinline__ void note_status(int32_t* status, Errc code, StatusDetail detail,
                                            int rank, int64_t value) {
  if (is_good(status)) write_status(status, code, detail, rank, value);
}

// Notes the first bad id of all, if it is among this block's slots [begin, end). Slots before
// `begin` belong to other blocks, which note their own. For whole blocks, and only for those that
// saw a bad id: earlier slots are read again, which only an error pays for.
// `ids` is an array, or what gives ids[s].
template <class Ids>
__device__ inline void note_first_bad_id(int32_t* status, const Ids& ids, int64_t begin,
                                         int64_t end, int64_t num_experts, int rank) {
  bool earlier = false;
  for (int64_t s = threadIdx.x; s < begin; s += blockDim.x)
    earlier |= !is_valid_id(ids[s], num_experts);
  if (__syncthreads_or(earlier)) return;

  __shared__ int first_bad;  // from `begin`
  if (threadIdx.x == 0) first_bad = INT_MAX;
  __syncthreads();
  for (int64_t s = begin + threadIdx.x; s < end; s += blockDim.x)
    if (!is_valid_id(ids[s], num_experts)) atomicMin(&first_bad, static_cast<int>(s - begin));
  __syncthreads();
  if (threadIdx.x == 0 && first_bad != INT_MAX)
    note_status(status, Errc::BadRouting, StatusDetail::IdOutOfRange, rank, ids[begin + first_bad]);
}

}  // namespace switchyard::cuda
