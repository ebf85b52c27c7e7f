// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/plan_rows.cuh -- a stable counting sort of slots by expert.
//
//     row_of_slot[s] = first_row[e] + (slots before s that have expert e),   e = ids[s]
//
// Few slots: one block does all. An expert's tokens are bits of a mask, and the slots before a
// token's are the bits before its own. No more threads than there is work for: each of them costs
// issue slots at every step.
//
// Else two kernels over the same blocks, each with a consecutive chunk of slots: count_slots writes
// a chunk's counts per expert to scratch; plan_rows adds them up and places its chunk. A block
// works in tiles of kMaxRounds * 32 slots per warp, each warp on consecutive ones, with a histogram
// per warp: lanes with equal experts find each other by votes, so a slot's rank never depends on
// who runs first. Reads 4 bytes of ids (twice) and writes 4 bytes per slot, 4 * E per block of
// scratch: bound by latency, a few dependent steps of a microsecond each.
#pragma once

#include "cuda/launch.h"
#include "cuda/status.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

// Most slots of a lane in one tile, in registers.
inline constexpr int kMaxRounds = 2;

struct PlanRowsParams {
  const int32_t* ids;       // [R_cap, K]
  const int32_t* num_rows;  // [1], null: all
  int32_t* counts;          // [E]
  int64_t* first_row;       // [E + 1]
  int32_t* next_step;       // [1] or null
  int32_t* row_of_slot;     // [R_cap, K]
  int32_t* slot_of_row;     // [num_buffer_rows] or null
  int32_t* row_expert;      // [num_buffer_rows] or null
  int32_t* scratch;         // [gridDim.x, E]
  RowTile* tiles;           // [num_tiles] or null
  int num_tiles, tile_rows;
  int32_t* status;
  int64_t num_buffer_rows;
  int64_t alignment;  // contiguous
  int64_t capacity;   // masked
  bool masked, notes_bad_ids;
  int num_slots;  // R_cap * K
  int top_k, num_experts, rank;
  int expert_bits;      // every expert is below 2^bits - 1
  int slots_per_block;  // a multiple of 32
};

// Experts of a histogram: a multiple of 8, so that it is cleared in 16-byte vectors.
constexpr int histogram_width(int num_experts) {
  return (num_experts + 7) / 8 * 8;
}

// Per-warp histograms, and two words per expert.
constexpr size_t plan_rows_smem_bytes(int num_warps, int num_experts) {
  return static_cast<size_t>(histogram_width(num_experts)) *
         (static_cast<size_t>(num_warps) * sizeof(uint16_t) + 2 * sizeof(int32_t));
}

// The slots of a block, and how many of them belong to rows that exist.
struct SlotRange {
  int begin, end, used_end;

  __device__ explicit SlotRange(const PlanRowsParams& p) {
    begin = static_cast<int>(blockIdx.x) * p.slots_per_block;
    end = min(begin + p.slots_per_block, p.num_slots);
    const int64_t used = p.num_rows ? int64_t{p.num_rows[0]} * p.top_k : p.num_slots;
    used_end = static_cast<int>(min(used, int64_t{end}));
  }
};

// The expert of a slot, or kNoExpert. Slots past the rows are read, too: so the id need not wait
// for the number of rows.
__device__ __forceinline__ int expert_of(const PlanRowsParams& p, int slot, int used_end) {
  const int id = slot < p.num_slots ? p.ids[slot] : kNoExpert;
  return slot < used_end && is_expert(id, p.num_experts) ? id : kNoExpert;
}

// Whole blocks: notes the first bad id of all, if this block has it.
__device__ __forceinline__ void check_ids(const PlanRowsParams& p, const SlotRange& range) {
  if (!p.notes_bad_ids) return;
  bool bad = false;
  for (int s = range.begin + static_cast<int>(threadIdx.x); s < range.used_end; s += blockDim.x)
    bad |= !is_valid_id(p.ids[s], p.num_experts);
  if (__syncthreads_or(bad))
    note_first_bad_id(p.status, p.ids, range.begin, range.used_end, p.num_experts, p.rank);
}

// The lanes that have the same expert, by one vote per bit: a third of the time of
// __match_any_sync. kNoExpert has every bit set, as no expert has.
__device__ __forceinline__ unsigned lanes_with(int expert, int bits) {
  unsigned same = ~0u;
#pragma unroll 1
  for (int b = 0; b < bits; ++b) {
    const bool set = (expert >> b & 1) != 0;
    const unsigned votes = __ballot_sync(~0u, set);
    same &= set ? votes : ~votes;
  }
  return same;
}

// What no slot fills, shared out over the blocks; slots follow once all of it is written.
__device__ __forceinline__ void clear_rows(const PlanRowsParams& p) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (p.slot_of_row)
    for (int64_t r = first; r < p.num_buffer_rows; r += stride) p.slot_of_row[r] = kNoRow;
  if (p.row_expert)
    for (int64_t r = first; r < p.num_buffer_rows; r += stride) p.row_expert[r] = kNoExpert;
  for (int64_t i = first; i < p.num_tiles; i += stride) p.tiles[i] = {};
}

// Step 1 of 2: scratch[block, e] = slots of expert e in the block's chunk.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void count_slots_kernel(
    const __grid_constant__ PlanRowsParams p) {
  extern __shared__ __align__(16) int32_t block_counts[];  // [E]
  wait_for_predecessor();
  allow_successor();
  for (int e = threadIdx.x; e < p.num_experts; e += kThreads) block_counts[e] = 0;
  clear_rows(p);
  const SlotRange range(p);
  check_ids(p, range);
  __syncthreads();
  // Whole warps go around together: begin and slots_per_block are multiples of 32.
  for (int s = range.begin + static_cast<int>(threadIdx.x); s < range.begin + p.slots_per_block;
       s += kThreads) {
    const int e = expert_of(p, s, range.used_end);
    const unsigned same = lanes_with(e, p.expert_bits);
    const bool leads = static_cast<int>(threadIdx.x % 32) == __ffs(same) - 1;
    if (leads && e != kNoExpert) atomicAdd(&block_counts[e], __popc(same));  // a sum commutes
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.num_experts; e += kThreads)
    p.scratch[int64_t{blockIdx.x} * p.num_experts + e] = block_counts[e];
}

// A lane's slots of one tile: its expert, and its rank among the warp's slots of that expert.
struct LaneSlots {
  int expert[kMaxRounds];
  int rank[kMaxRounds];
};

// The sums of `value` over the threads before this one. For whole blocks, once.
__device__ __forceinline__ int2 sums_before(int2 value) {
  __shared__ int2 warp_sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int2 inclusive = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int x = __shfl_up_sync(~0u, inclusive.x, step),
              y = __shfl_up_sync(~0u, inclusive.y, step);
    if (lane >= step) inclusive.x += x, inclusive.y += y;
  }
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  const int2 before = lane < warp ? warp_sums[lane] : int2{0, 0};
  return {__reduce_add_sync(~0u, before.x) + inclusive.x - value.x,
          __reduce_add_sync(~0u, before.y) + inclusive.y - value.y};
}

// Counts one tile: fills `slots`, and histogram[w, e] = slots of expert e in warps 0 .. w.
template <int kWarps>
__device__ __forceinline__ void count_tile(LaneSlots& slots, uint16_t* histogram, int width,
                                           const PlanRowsParams& p, int tile_begin, int rounds,
                                           int used_end) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = tile_begin + warp * rounds * 32 + lane;
#pragma unroll
  for (int i = 0; i < kMaxRounds; ++i)
    slots.expert[i] = i < rounds ? expert_of(p, first + i * 32, used_end) : kNoExpert;

  uint16_t* mine = histogram + warp * width;
  for (int v = lane; v < width / 8; v += 32) reinterpret_cast<uint4*>(mine)[v] = {0, 0, 0, 0};
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kMaxRounds; ++i) {
    if (i >= rounds) break;
    const int e = slots.expert[i];
    const unsigned same = lanes_with(e, p.expert_bits);
    const int leader = __ffs(same) - 1;
    int before = 0;
    if (lane == leader && e != kNoExpert) {
      before = mine[e];
      mine[e] = static_cast<uint16_t>(before + __popc(same));
    }
    slots.rank[i] = __shfl_sync(~0u, before, leader) + __popc(same & ((1u << lane) - 1));
    __syncwarp();
  }
  __syncthreads();

  // Two experts per word: a tile has at most 2048 slots, so the halves never carry.
  static_assert(kWarps * 32 * kMaxRounds < 1 << 16 && kWarps % 8 == 0);
  auto* words = reinterpret_cast<uint32_t*>(histogram);
  for (int c = threadIdx.x; c < width / 2; c += kWarps * 32) {
    uint32_t sum = 0;
#pragma unroll 1
    for (int first_warp = 0; first_warp < kWarps; first_warp += 8) {  // 8 loads on their way
      uint32_t counts[8];
#pragma unroll
      for (int w = 0; w < 8; ++w) counts[w] = words[(first_warp + w) * (width / 2) + c];
#pragma unroll
      for (int w = 0; w < 8; ++w) words[(first_warp + w) * (width / 2) + c] = sum += counts[w];
    }
  }
  __syncthreads();
}

// placed[e] = slots of e in earlier chunks, totals[e] = in all chunks. Ends with a barrier.
template <int kThreads>
__device__ __forceinline__ void sum_chunks(int32_t* placed, int32_t* totals, int width,
                                           const PlanRowsParams& p) {
  for (int e = threadIdx.x; e < width; e += kThreads) placed[e] = totals[e] = 0;
  __syncthreads();
  // As many chunks side by side as there are threads for.
  const int num_chunks = gridDim.x, columns = min(p.num_experts, kThreads);
  const int side_by_side = kThreads / columns,
            first_chunk = static_cast<int>(threadIdx.x) / columns;
  if (first_chunk < side_by_side)
    for (int e = static_cast<int>(threadIdx.x) % columns; e < p.num_experts; e += columns) {
      int all = 0, earlier = 0;
#pragma unroll 8
      for (int c = first_chunk; c < num_chunks; c += side_by_side) {
        const int count = p.scratch[int64_t{c} * p.num_experts + e];
        all += count;
        earlier += c < static_cast<int>(blockIdx.x) ? count : 0;
      }
      atomicAdd(&totals[e], all);  // sums commute
      atomicAdd(&placed[e], earlier);
    }
  __syncthreads();
}

// An expert's tiles, from place `next` of the table on. Returns the place after them.
__device__ __forceinline__ int place_tiles(const PlanRowsParams& p, int next, int expert, int count,
                                           int64_t first_row) {
  const TileSplit split = split_rows(count, p.tile_rows);
  for (int i = 0; i < split.tiles; ++i) {
    const int first = i * split.rows;
    p.tiles[next++] = {first_row + first, min(split.rows, count - first), expert};
  }
  return next;
}

// Turns totals[e] into the first row of e. Block 0 writes the groups and notes an overflow: the
// lowest expert's. Ends with a barrier.
__device__ __forceinline__ void place_groups(int32_t* totals, const PlanRowsParams& p) {
  const int num_threads = static_cast<int>(blockDim.x);
  const int experts_per_thread = (p.num_experts + num_threads - 1) / num_threads;
  const int begin = static_cast<int>(threadIdx.x) * experts_per_thread;
  const int end = min(begin + experts_per_thread, p.num_experts);
  if (p.next_step && blockIdx.x == 0 && threadIdx.x == 0) *p.next_step = 0;
  const auto count_of = [&](int e) {
    const int total = totals[e];
    return p.masked && total > p.capacity ? static_cast<int>(p.capacity) : total;
  };
  int64_t next = begin * p.capacity;
  int next_tile = 0;
  if (!p.masked || p.tiles) {
    int2 sums{0, 0};  // rows, as row_of_slot has 32 bits, too, and tiles
#pragma unroll 1
    for (int e = begin; e < end; ++e) {
      sums.x += static_cast<int>(padded_count(totals[e], p.alignment));
      if (p.tiles) sums.y += split_rows(count_of(e), p.tile_rows).tiles;
    }
    sums = sums_before(sums);
    if (!p.masked) next = sums.x;
    next_tile = sums.y;
  }
  int overflowing = INT_MAX, num_overflowing = 0;
#pragma unroll 1
  for (int e = begin; e < end; ++e) {
    const int total = totals[e], count = count_of(e);
    if (count < total && overflowing == INT_MAX) overflowing = e, num_overflowing = total;
    totals[e] = static_cast<int32_t>(next);
    if (blockIdx.x == 0) {
      p.counts[e] = count;
      p.first_row[e] = next;
      if (p.tiles) next_tile = place_tiles(p, next_tile, e, count, next);
    }
    next += p.masked ? p.capacity : padded_count(total, p.alignment);
    if (blockIdx.x == 0 && e == p.num_experts - 1) p.first_row[e + 1] = next;
  }
  if (p.masked && blockIdx.x == 0) {
    __shared__ int lowest;
    if (threadIdx.x == 0) lowest = INT_MAX;
    __syncthreads();
    if (overflowing != INT_MAX) atomicMin(&lowest, overflowing);
    __syncthreads();
    if (overflowing != INT_MAX && overflowing == lowest)
      note_status(p.status, Errc::BadRouting, StatusDetail::MaskedOverflow, p.rank,
                  num_overflowing);
  }
  __syncthreads();
}

// Gives a slot its row: that of its group with `rank` slots before it.
__device__ __forceinline__ void place_slot(const PlanRowsParams& p, int slot, int expert,
                                           int first_row, int rank) {
  int row = kNoRow;
  if (!p.masked || rank < p.capacity) {
    row = first_row + rank;
    if (p.slot_of_row) p.slot_of_row[row] = slot;
    if (p.row_expert) p.row_expert[row] = expert;
  }
  p.row_of_slot[slot] = row;
}

// Gives each slot of a counted tile its row.
__device__ __forceinline__ void place_tile(const LaneSlots& slots, const uint16_t* histogram,
                                           const int32_t* placed, const int32_t* first_row,
                                           int width, const PlanRowsParams& p, int tile_begin,
                                           int rounds, int end) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = tile_begin + warp * rounds * 32 + lane;
#pragma unroll
  for (int i = 0; i < kMaxRounds; ++i) {
    const int slot = first + i * 32, e = slots.expert[i];
    if (i >= rounds || slot >= end) break;
    if (e == kNoExpert) {
      p.row_of_slot[slot] = kNoRow;
      continue;
    }
    const int earlier_warps = warp == 0 ? 0 : histogram[(warp - 1) * width + e];
    place_slot(p, slot, e, first_row[e], placed[e] + earlier_warps + slots.rank[i]);
  }
}

// Step 2 of 2.
template <int kWarps>
__global__ __launch_bounds__(kWarps *
                             32) void plan_rows_kernel(const __grid_constant__ PlanRowsParams p) {
  constexpr int kThreads = kWarps * 32;
  extern __shared__ __align__(16) uint16_t histogram[];  // [kWarps, width]
  const int width = histogram_width(p.num_experts);
  auto* placed = reinterpret_cast<int32_t*>(histogram + kWarps * width);  // [width]
  int32_t* first_row = placed + width;                                    // [width]; totals before
  wait_for_predecessor();
  allow_successor();

  const SlotRange range(p);
  const int rounds = min((p.slots_per_block + kThreads - 1) / kThreads, kMaxRounds);
  LaneSlots slots;
  sum_chunks<kThreads>(placed, first_row, width, p);
  place_groups(first_row, p);
  for (int tile = range.begin; tile < range.end; tile += rounds * kThreads) {
    if (tile != range.begin) {  // what the last tile placed comes before this one
      __syncthreads();
      for (int e = threadIdx.x; e < width; e += kThreads)
        placed[e] += histogram[(kWarps - 1) * width + e];
      __syncthreads();
    }
    count_tile<kWarps>(slots, histogram, width, p, tile, rounds, range.used_end);
    place_tile(slots, histogram, placed, first_row, width, p, tile, rounds, range.end);
  }
}

// ---- few slots

// 32-bit words of an expert's mask of tokens.
constexpr int mask_words(int num_slots, int top_k) {
  return (num_slots / top_k + 31) / 32;
}
// Masks, and a word per expert.
constexpr size_t few_slots_smem_bytes(int words, int num_experts) {
  return static_cast<size_t>(num_experts) * static_cast<size_t>(words + 1) * sizeof(uint32_t);
}

// An expert that a token has twice is two slots and one bit: then the thread of an expert goes
// through all slots itself, slow, but no gate makes such ids.
template <class Place>
__device__ int walk_slots(const PlanRowsParams& p, int expert, int used_end, const Place& place) {
  int rank = 0;
#pragma unroll 1
  for (int s = 0; s < used_end; ++s)
    if (expert_of(p, s, used_end) == expert) place(s, rank++);
  return rank;
}

inline constexpr int kFewSlotsThreads = 1024;  // at most, each with two slots

__global__ __launch_bounds__(kFewSlotsThreads) void plan_few_slots_kernel(
    const __grid_constant__ PlanRowsParams p) {
  // [words, E]: slots of a warp are of few tokens and many experts, which are on different banks
  extern __shared__ __align__(16) uint32_t masks[];
  const int words = mask_words(p.num_slots, p.top_k), num_threads = static_cast<int>(blockDim.x);
  const int num_experts = p.num_experts;
  auto* first_row = reinterpret_cast<int32_t*>(masks + num_experts * words);  // [E]; totals before
  for (int w = threadIdx.x; w < num_experts * words; w += num_threads) masks[w] = 0;
  wait_for_predecessor();
  allow_successor();
  const SlotRange range(p);
  int slot[2], expert[2], word[2];
  uint32_t bit[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    slot[i] = static_cast<int>(threadIdx.x) + i * num_threads;
    expert[i] = expert_of(p, slot[i], range.used_end);
    const int token = slot[i] / p.top_k;
    word[i] = token / 32 * num_experts;
    bit[i] = 1u << token % 32;
  }
  clear_rows(p);
  check_ids(p, range);
  __syncthreads();

  bool repeats = false;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (expert[i] != kNoExpert)  // bits commute
      repeats |= (atomicOr(&masks[word[i] + expert[i]], bit[i]) & bit[i]) != 0;
  repeats = __syncthreads_or(repeats);
  int rank[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (expert[i] == kNoExpert) continue;
    rank[i] = __popc(masks[word[i] + expert[i]] & (bit[i] - 1));
    for (int w = expert[i]; w < word[i]; w += num_experts) rank[i] += __popc(masks[w]);
  }
  for (int e = threadIdx.x; e < num_experts; e += num_threads) {
    int total = 0;
    for (int w = 0; w < words; ++w) total += __popc(masks[w * num_experts + e]);
    first_row[e] = repeats ? walk_slots(p, e, range.used_end, [](int, int) {}) : total;
  }
  __syncthreads();
  place_groups(first_row, p);

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (slot[i] >= p.num_slots) break;
    if (expert[i] == kNoExpert)
      p.row_of_slot[slot[i]] = kNoRow;
    else if (!repeats)
      place_slot(p, slot[i], expert[i], first_row[expert[i]], rank[i]);
  }
  if (!repeats) return;
  for (int e = threadIdx.x; e < num_experts; e += num_threads)
    walk_slots(p, e, range.used_end, [&](int s, int r) { place_slot(p, s, e, first_row[e], r); });
}

}  // namespace switchyard::cuda
