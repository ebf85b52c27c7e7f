// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/plan_dispatch.cuh -- from expert ids to ranks, and from global ids to local ones.
#pragma once

#include "cuda/launch.h"
#include "cuda/slot_tables.cuh"
#include "cuda/status.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

inline constexpr int kIdThreads = 256;
inline constexpr int kOrderThreads = 1024;

// The caller's ids, each as the layer's.
template <class Id>
struct CallerIds {
  const Id* ids;
  const int32_t* map;  // [map_size], null: they are the layer's
  int64_t map_size, num_experts;
  bool ignores_out_of_range;

  __device__ int64_t operator[](int64_t i) const {
    const int64_t id = ids[i];
    const int64_t own = map != nullptr && is_expert(id, map_size) ? map[id] : id;
    return ignores_out_of_range && !is_expert(own, num_experts) ? kNoExpert : own;
  }
};

// Where resolved ids become weight slots.
struct ResolvedSlots {
  SlotsView view;
  const float* weights;  // [T, K], null: ids stay
  int top_k;
};

// dst = ids where they fit i32, else INT32_MIN. The first bad id is noted as it came. One thread per
// id; memory bound.
template <class Id>
__global__ __launch_bounds__(kIdThreads) void resolve_ids_kernel(
    int32_t* __restrict__ dst, const __grid_constant__ CallerIds<Id> ids,
    const __grid_constant__ ResolvedSlots slots, int64_t count, int rank,
    int32_t* __restrict__ status) {
  wait_for_predecessor();
  allow_successor();
  const int64_t begin = int64_t{blockIdx.x} * kIdThreads, i = begin + threadIdx.x;
  bool bad = false;
  if (i < count) {
    const int64_t id = ids[i];
    bad = !is_valid_id(id, ids.num_experts);
    const int32_t own = id < INT32_MIN || id > INT32_MAX ? INT32_MIN : static_cast<int32_t>(id);
    dst[i] = slots.weights == nullptr
                 ? own
                 : place_id(slots.view, own, i / slots.top_k, slots.weights[i]);
  }
  if (__syncthreads_or(bad))
    note_first_bad_id(status, ids, begin, min(begin + kIdThreads, count), ids.num_experts, rank);
}

struct LocalizeIdsParams {
  int32_t* dst;             // [R, K]
  const int32_t* src;       // [R, K]
  const int32_t* num_rows;  // [1], null: all
  int32_t* status;
  int64_t num_slots;  // R * K
  int64_t top_k, first, num_local, num_experts;
  int rank;
};

// dst = src - first where that is local, else kNoExpert. One thread per slot; memory bound.
__global__ __launch_bounds__(kIdThreads) void localize_ids_kernel(
    const __grid_constant__ LocalizeIdsParams p) {
  wait_for_predecessor();
  allow_successor();
  const int64_t used = p.num_rows ? min(p.num_rows[0] * p.top_k, p.num_slots) : p.num_slots;
  const int64_t begin = int64_t{blockIdx.x} * kIdThreads, s = begin + threadIdx.x;
  bool bad = false;
  if (s < used) {
    const int32_t id = p.src[s];
    const int64_t local = id - p.first;
    bad = !is_valid_id(id, p.num_experts);
    p.dst[s] = local >= 0 && local < p.num_local ? static_cast<int32_t>(local) : kNoExpert;
  }
  if (__syncthreads_or(bad))
    note_first_bad_id(p.status, p.src, begin, min(begin + kIdThreads, used), p.num_experts, p.rank);
}

// The order (rank, token) in two steps, so that many blocks share the ids.
struct PlanDispatchParams {
  int32_t* send_rows;    // [P * T_cap]
  int32_t* send_counts;  // [P], 0 before the first step
  int32_t* return_row;   // [T, P]
  const int32_t* ids;    // [T, K]
  int32_t* status;
  int64_t num_experts;
  int num_tokens, top_k, num_ranks, rank;
};

// Step 1: return_row[t, p] = 0 where rank p owns an expert of token t, else kNoRow; send_counts[p]
// = how many. One thread per pair (t, p); the one of rank 0 looks at the token's ids.
__global__ __launch_bounds__(kIdThreads) void mark_ranks_kernel(
    const __grid_constant__ PlanDispatchParams p) {
  extern __shared__ int32_t block_counts[];  // [P]
  wait_for_predecessor();
  allow_successor();
  for (int r = threadIdx.x; r < p.num_ranks; r += kIdThreads) block_counts[r] = 0;
  __syncthreads();

  const int64_t num_pairs = int64_t{p.num_tokens} * p.num_ranks;
  const int64_t begin = int64_t{blockIdx.x} * kIdThreads, pair = begin + threadIdx.x;
  bool bad = false;
  if (pair < num_pairs) {
    const int64_t t = pair / p.num_ranks, rank = pair - t * p.num_ranks;
    const int64_t per_rank = experts_of_rank(p.num_experts, p.num_ranks), first = rank * per_rank;
    const int32_t* ids = p.ids + t * p.top_k;
    bool owns = false;
    for (int k = 0; k < p.top_k; ++k) {
      const int32_t id = ids[k];
      owns |= id >= first && id < first + per_rank;
      bad |= rank == 0 && !is_valid_id(id, p.num_experts);
    }
    p.return_row[pair] = owns ? 0 : kNoRow;
    if (owns) atomicAdd(&block_counts[rank], 1);
  }
  if (__syncthreads_or(bad)) {
    // The tokens whose pair with rank 0 is in this block: consecutive, in the order of the blocks.
    const int64_t end = min(begin + kIdThreads, num_pairs);
    const int64_t first_token = (begin + p.num_ranks - 1) / p.num_ranks;
    const int64_t end_token = (end + p.num_ranks - 1) / p.num_ranks;
    note_first_bad_id(p.status, p.ids, first_token * p.top_k, end_token * p.top_k, p.num_experts,
                      p.rank);
  }
  for (int r = threadIdx.x; r < p.num_ranks; r += kIdThreads)
    if (block_counts[r] != 0) atomicAdd(&p.send_counts[r], block_counts[r]);
}

// Step 2: one block per rank numbers its tokens, 1024 at a time, after those of lower ranks. With a
// status set there are none.
__global__ __launch_bounds__(kOrderThreads) void order_rows_kernel(
    const __grid_constant__ PlanDispatchParams p) {
  __shared__ int warp_counts[2][kOrderThreads / 32];  // two, so that one barrier per step is enough
  wait_for_predecessor();
  allow_successor();
  const int rank = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t* return_row = p.return_row + rank;
  if (!is_good(p.status)) {
    if (threadIdx.x == 0) p.send_counts[rank] = 0;
    for (int64_t t = threadIdx.x; t < p.num_tokens; t += kOrderThreads)
      return_row[t * p.num_ranks] = kNoRow;
    return;
  }
  int next = 0;
  for (int r = lane; r < rank; r += 32) next += p.send_counts[r];
  next = __reduce_add_sync(~0u, next);

  for (int first = 0, step = 0; first < p.num_tokens; first += kOrderThreads, ++step) {
    const int t = first + static_cast<int>(threadIdx.x);
    const int64_t pair = int64_t{t} * p.num_ranks;
    const bool sent = t < p.num_tokens && return_row[pair] != kNoRow;
    const unsigned mask = __ballot_sync(~0u, sent);
    int* counts = warp_counts[step % 2];
    if (lane == 0) counts[warp] = __popc(mask);
    __syncthreads();
    const int count = counts[lane];
    const int before = __reduce_add_sync(~0u, lane < warp ? count : 0);
    if (sent) {
      const int row = next + before + __popc(mask & ((1u << lane) - 1));
      return_row[pair] = row;
      p.send_rows[row] = t;
    }
    next += __reduce_add_sync(~0u, count);
  }
}

}  // namespace switchyard::cuda
