// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/conv_prefill_states.cuh -- the states that a convolution over whole prompts leaves.
//
// A thread has one channel of one sequence; blockIdx.y deals the states of the sequence among
// blocks. States that reach back before the first new token need the old state, which the first
// new state may overwrite: all of them, and the first, belong to blockIdx.y = 0, whose threads read
// before they write. Few bytes: w - 1 rows of x in and as many values out per block of the pool.
#pragma once

#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "plan/state_slots.h"

namespace switchyard::cuda {

inline constexpr int kPrefillThreads = 128;

struct ConvPrefillParams {
  void* state;    // S [num_blocks, dim, depth]
  const void* x;  // X [num_rows, dim]
  const int32_t* starts;
  const int32_t* prefix_lengths;
  int32_t* status;
  StateTable table;
  int64_t block_stride;  // elements of S
  int64_t num_rows;
  int dim, depth, tiles;  // tiles of kPrefillThreads channels
};

template <class X, class S>
__global__ __launch_bounds__(kPrefillThreads) void conv_prefill_states_kernel(
    const __grid_constant__ ConvPrefillParams p) {
  wait_for_predecessor();
  allow_successor();
  const int64_t b = blockIdx.x / p.tiles;
  const int tile = static_cast<int>(blockIdx.x) % p.tiles;
  const int64_t channel = int64_t{tile} * kPrefillThreads + threadIdx.x;
  const bool notes = tile == 0 && threadIdx.x == 0;
  const int64_t prefix = p.prefix_lengths[b], begin = p.starts[b], end = p.starts[b + 1];
  if (prefix < 0 || begin == end) return;
  if (begin < 0 || end < begin || end > p.num_rows) {
    if (notes && blockIdx.y == 0) atomicOr(p.status + b, bit(StateFault::PrefillRows));
    return;
  }

  const int64_t num_new = end - begin, s = p.table.block_tokens;
  StateBlock from{kNoBlock, 0};
  if (prefix > 0 && reaches_prefix(prefill_state_token(prefix, num_new, s, 0), prefix, p.depth))
    from = find_block(p.table, b, (prefix - 1) / s, StateFault::ReadSlot, StateFault::ReadBlock);
  int32_t faults = from.faults;
  S* pool = static_cast<S*>(p.state) + channel * p.depth;
  float old[kMaxConvWidth - 1] = {};
  if (blockIdx.y == 0 && from.faults == 0 && from.block != kNoBlock && channel < p.dim)
    for (int j = 0; j < p.depth; ++j) old[j] = to_float(pool[from.block * p.block_stride + j]);

  const X* x = static_cast<const X*>(p.x) + channel;
  const int64_t count = num_prefill_states(prefix, num_new, s);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = prefill_state_token(prefix, num_new, s, i);
    const bool reaches = reaches_prefix(token, prefix, p.depth);
    const bool mine = reaches ? blockIdx.y == 0 : i % gridDim.y == blockIdx.y;
    if (!mine) continue;
    const StateBlock to =
        find_block(p.table, b, token / s, StateFault::WriteSlot, StateFault::WriteBlock);
    faults |= to.faults;
    if (to.faults != 0 || from.faults != 0 || channel >= p.dim) continue;
    for (int j = 0; j < p.depth; ++j) {
      const int64_t at = token - (p.depth - 1) + j - prefix;  // from the first new token
      const float value =
          at < 0 ? old[p.depth + at] : to_float(rounded<S>(to_float(x[(begin + at) * p.dim])));
      pool[to.block * p.block_stride + j] = exact<S>(value);
    }
  }
  if (notes && faults != 0) atomicOr(p.status + b, faults);
}

}  // namespace switchyard::cuda
