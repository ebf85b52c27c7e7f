// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/deliver_rows.cuh -- token rows to their owners, in compact blocks; tell; wait.
//
// blockIdx.x walks groups of consecutive tokens, blockIdx.y shares the pieces of their rows. Every
// block counts, from the ids alone, how many tokens before its own go to each rank: warps take 32
// tokens at a time and vote, lane r keeps the count of rank r. So a token's place depends on ids only,
// and blocks do not wait for each other. The last block to be done tells the peers, and its first warp
// waits for them: no block that has rows to push can wait for room.
// Bound by the link: T * (ranks that get a token, own excluded) * row bytes; at few tokens by the
// latency of ids, of a row, of a store and its fence, and of a word to a peer.
#pragma once

#include "cuda/peer_meeting.cuh"
#include "cuda/row_pieces.cuh"
#include "plan/row_layout.h"

namespace switchyard::cuda {

inline constexpr int kDeliverWarps = kPushThreads / 32;
inline constexpr int kMaxGroupTokens = 32;  // a lane places each

struct DeliverRowsParams {
  WindowView window;
  PushedPart parts[kMaxRowParts];
  int32_t* dst_ids;      // [P * block, K] here; a peer's stand at the same offset
  float* dst_weights;    // [P * block, K]
  int32_t* dst_tokens;   // [P * block] or null
  int32_t* return_row;   // [T, P] or null
  int32_t* return_slot;  // [T, K] or null
  int32_t* sent;         // [P]
  int32_t* counts;       // [P]
  int32_t* num_rows;     // [1]
  int32_t* status;
  const int32_t* active;  // SlotTables::active or null
  const int32_t* ids;     // [T, K]
  const float* weights;   // [T, K]
  int num_experts, experts_per_rank;
  int num_tokens, top_k, block;
  int pieces_per_row;               // of all parts
  int group_tokens, num_groups;     // at least one group, which may be empty
  int32_t max_tokens, told_tokens;  // as told
  int tp_size;
  PeerMeet part;
  unsigned long long* dropped;  // [1] or null, with window.active

  __device__ __forceinline__ int first_row() const { return window.rank * block; }
};

// Of the ranks from `base` on, a bit each: those that own an expert of token t.
__device__ __forceinline__ unsigned owners_of(const DeliverRowsParams& p, int t, int base) {
  const int32_t* ids = p.ids + int64_t{t} * p.top_k;
  const unsigned active =
      p.window.active == nullptr ? ~0u : static_cast<unsigned>(*p.window.active >> base);
  unsigned owners = 0;
#pragma unroll 8
  for (int k = 0; k < p.top_k; ++k) {
    const int32_t id = __ldg(ids + k);
    const int rank = id / p.experts_per_rank - base;
    if (is_expert(id, p.num_experts) && rank >= 0 && rank < 32) owners |= 1u << rank;
  }
  return owners & active;
}

__device__ __forceinline__ unsigned lanes_below(int n) {
  return n >= 32 ? ~0u : n <= 0 ? 0u : (1u << n) - 1;
}

// places[i, r]: the number of the group's token i among all tokens that rank r gets, or kNoRow;
// total[r]: how many it gets. A whole block.
__device__ __forceinline__ void place_group(const DeliverRowsParams& p, int first, int num,
                                            int32_t* places, int32_t* total) {
  __shared__ int counted[kDeliverWarps][2][32];  // tokens before the group, and all
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int all_ranks = p.window.num_ranks;
  for (int base = 0; base < all_ranks; base += 32) {
    const int num_ranks = min(32, all_ranks - base);
    int before = 0, all = 0;
    for (int t = warp * 32; t < p.num_tokens; t += kDeliverWarps * 32) {
      const unsigned owners = t + lane < p.num_tokens ? owners_of(p, t + lane, base) : 0;
      for (int r = 0; r < num_ranks; ++r) {
        const unsigned votes = __ballot_sync(~0u, owners >> r & 1);
        if (lane != r) continue;
        all += __popc(votes);
        before += __popc(votes & lanes_below(first - t));
      }
    }
    counted[warp][0][lane] = before;
    counted[warp][1][lane] = all;
    __syncthreads();
    if (warp == 0) {
      before = 0, all = 0;
      for (int w = 0; w < kDeliverWarps; ++w)
        before += counted[w][0][lane], all += counted[w][1][lane];
      const unsigned owners = lane < num ? owners_of(p, first + lane, base) : 0;
      for (int r = 0; r < num_ranks; ++r) {
        const unsigned votes = __ballot_sync(~0u, owners >> r & 1);
        const int place = __shfl_sync(~0u, before, r) + __popc(votes & lanes_below(lane));
        if (lane < num) places[lane * all_ranks + base + r] = owners >> r & 1 ? place : kNoRow;
      }
      if (lane < num_ranks) total[base + lane] = all;
    }
    __syncthreads();
  }
}

// Ids and weights of the group's tokens, and where what they give comes back. A whole block.
__device__ __forceinline__ void push_slots(const DeliverRowsParams& p, int first, int num,
                                           const int32_t* places) {
  const WindowView& w = p.window;
  const int num_ranks = w.num_ranks, slots = num * p.top_k, tid = static_cast<int>(threadIdx.x);
  const int64_t first_slot = int64_t{first} * p.top_k;
  for (int n = tid; n < slots * num_ranks; n += kPushThreads) {
    // Each rank begins with the next one.
    const int rank = (w.rank + 1 + n / slots) % num_ranks, s = n % slots, i = s / p.top_k;
    const int place = places[i * num_ranks + rank];
    if (place == kNoRow) continue;
    const int32_t id = __ldg(p.ids + first_slot + s);
    const int local = id - rank * p.experts_per_rank;
    const bool is_here = is_expert(id, p.num_experts) && is_expert(local, p.experts_per_rank);
    const int64_t at = int64_t{p.first_row() + place} * p.top_k + s % p.top_k;
    w.at_peer(rank, p.dst_ids)[at] = is_here ? local : kNoExpert;
    w.at_peer(rank, p.dst_weights)[at] = __ldg(p.weights + first_slot + s);
    if (p.dst_tokens && s % p.top_k == 0)
      w.at_peer(rank, p.dst_tokens)[p.first_row() + place] = first + i;
  }
  for (int n = tid; p.return_row && n < num * num_ranks; n += kPushThreads)
    p.return_row[int64_t{first} * num_ranks + n] =
        places[n] == kNoRow ? kNoRow : n % num_ranks * p.block + places[n];
  for (int s = tid; s < slots; s += kPushThreads) {
    const int64_t slot = first_slot + s;
    const int32_t id = __ldg(p.ids + slot);
    if (!is_valid_id(id, p.num_experts))
      atomicMax(reinterpret_cast<unsigned long long*>(w.control + kControlBadId),
                static_cast<unsigned long long>(bad_id_word(slot, id)));
    const bool names_expert = is_expert(id, p.num_experts);
    const bool goes = names_expert && w.is_active(id / p.experts_per_rank);
    if (names_expert && !goes) atomicAdd(p.dropped, 1ull);
    if (p.return_slot) p.return_slot[slot] = goes ? static_cast<int32_t>(slot) : kNoRow;
  }
}

// The rest of this rank's blocks has no expert, and so has all that a rank that is not active would
// send. Blocks share it.
__device__ __forceinline__ void push_gaps(const DeliverRowsParams& p, const int32_t* total) {
  const WindowView& w = p.window;
  const int64_t begin = int64_t{blockIdx.x} * kPushThreads + threadIdx.x,
                stride = int64_t{gridDim.x} * kPushThreads;
  for (int q = 1; q <= w.num_ranks; ++q) {
    const int rank = (w.rank + q) % w.num_ranks;
    int32_t* ids = w.is_active(rank) ? w.at_peer(rank, p.dst_ids) + int64_t{p.first_row()} * p.top_k
                                     : p.dst_ids + int64_t{rank} * p.block * p.top_k;
    const int64_t end = int64_t{p.block} * p.top_k;
    for (int64_t s = int64_t{total[rank]} * p.top_k + begin; s < end; s += stride)
      ids[s] = kNoExpert;
  }
}

// The rows of the group's tokens: a warp takes a piece, kLoads vectors a lane, to where it goes.
template <int kLoads, bool kOneWidePart>
__device__ __forceinline__ void push_group(const DeliverRowsParams& p, int first, int num,
                                           const int32_t* places) {
  const WindowView& w = p.window;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int n = static_cast<int>(blockIdx.y) * kDeliverWarps + warp; n < num * p.pieces_per_row;
       n += static_cast<int>(gridDim.y) * kDeliverWarps) {
    const int i = n / p.pieces_per_row, piece = n % p.pieces_per_row;
    const auto push = [&](auto* here, const auto& store) {
      // Other ranks first, each rank beginning with the next one, so that links share the load.
      for (int q = 1; q <= w.num_ranks; ++q) {
        const int rank = (w.rank + q) % w.num_ranks, place = places[i * w.num_ranks + rank];
        if (place == kNoRow) continue;
        store(w.at_peer(rank, here), p.first_row() + place);
      }
    };
    if constexpr (kOneWidePart)
      push_piece<kLoads, uint4>(p.parts[0], first + i, piece, push);
    else
      push_piece_of_row<kLoads>(p.parts, first + i, piece, push);
  }
}

// Of a call with a status: no row goes anywhere, and none is to come back. A whole block.
__device__ __forceinline__ void push_nothing(const DeliverRowsParams& p, int32_t* total) {
  for (int r = static_cast<int>(threadIdx.x); r < p.window.num_ranks; r += kPushThreads)
    total[r] = 0;
  const int64_t begin = int64_t{blockIdx.x} * kPushThreads + threadIdx.x,
                stride = int64_t{gridDim.x} * kPushThreads;
  const auto clear = [&](int32_t* places, int width) {
    for (int64_t i = begin; places && i < int64_t{p.num_tokens} * width; i += stride)
      places[i] = kNoRow;
  };
  clear(p.return_row, p.window.num_ranks);
  clear(p.return_slot, p.top_k);
}

// A whole block. Afterwards `total` is known to it.
template <int kLoads, bool kOneWidePart>
__device__ __forceinline__ void push_groups(const DeliverRowsParams& p, int32_t* places,
                                            int32_t* total) {
  // Some blocks may see that a rank is missing, and others not: the call ends with an error then.
  if (!is_good(p.status) || p.window.missing_ranks() != 0) return push_nothing(p, total);
  for (int group = static_cast<int>(blockIdx.x); group < p.num_groups;
       group += static_cast<int>(gridDim.x)) {
    const int first = group * p.group_tokens, num = min(p.group_tokens, p.num_tokens - first);
    place_group(p, first, num, places, total);
    push_group<kLoads, kOneWidePart>(p, first, num, places);
    if (blockIdx.y == 0) {
      push_slots(p, first, num, places);
      if (group == static_cast<int>(blockIdx.x)) push_gaps(p, total);
    }
    __syncthreads();  // before places are those of the next group
  }
}

// Notes the lowest rank that was told other active ranks than this one's. One warp.
__device__ __forceinline__ void check_active(const DeliverRowsParams& p, int32_t active) {
  constexpr int kWidth = static_cast<int>(header_width(PeerPhase::CountedRows));
  for (int first = 0; first < p.window.num_ranks; first += 32) {
    const int r = first + static_cast<int>(threadIdx.x);
    const int32_t told =
        r < p.window.num_ranks ? p.window.headers[r * kWidth + kHeaderActive] : active;
    const unsigned others = __ballot_sync(~0u, told != active);
    if (static_cast<int>(threadIdx.x) == __ffs(static_cast<int>(others)) - 1)
      note_status(p.status, Errc::ShapeMismatch, StatusDetail::ActiveRanksDiffer, r, told);
    __syncwarp();
  }
}

// Tells what AwaitRows tells, and how many rows came; waits for the same. One warp.
__device__ __forceinline__ void exchange_counts(const DeliverRowsParams& p, const int32_t* total) {
  const WindowView& w = p.window;
  const int lane = static_cast<int>(threadIdx.x);
  const uint32_t epoch = w.epoch() + 1;
  constexpr int kWidth = static_cast<int>(header_width(PeerPhase::CountedRows));
  const int32_t placement = p.active != nullptr ? p.active[0] : 0;
  const int32_t active = w.active != nullptr ? active_ranks_word(*w.active) : 0;
  if (p.part != PeerMeet::Wait) {
    note_bad_id(w, p.status);
    note_missing(w, PeerPhase::CountedRows, p.status);
    send_header(w, PeerPhase::CountedRows, epoch, 0, w.num_ranks, [&](int word, int to) {
      return word == kHeaderMaxTokens   ? p.max_tokens
             : word == kHeaderPlacement ? placement
             : word == kHeaderTokens    ? p.told_tokens
             : word == kHeaderRows      ? total[to]
             : word == kHeaderActive    ? active
                                        : p.status[word];
    });
    for (int r = lane; r < w.num_ranks; r += 32) p.sent[r] = total[r];
  }
  if (p.part == PeerMeet::Signal) return;
  const Came came = await_peers(
      w, PeerPhase::CountedRows, epoch, 0, w.num_ranks, p.status, [&](int word, int32_t value) {
        return word == 0                  ? value == 0
               : word == kHeaderMaxTokens ? value == p.max_tokens
               : word == kHeaderActive    ? value == active
               : word == kHeaderPlacement
                   ? same_placement(value, placement)
                   : p.tp_size == 1 || word != kHeaderTokens || value == p.told_tokens;
      });
  bool good = came == Came::AllAgree;
  if (came == Came::All) {
    check_headers_of_warp(p.status, w.headers, w.num_ranks, kWidth, p.tp_size);
    __syncwarp();
    note_missing(w, PeerPhase::CountedRows, p.status);
    check_active(p, active);
    good = is_good(p.status);
  }
  int end = 0;
  for (int first = 0; first < w.num_ranks; first += 32) {
    const int s = first + lane;
    const int count = good && s < w.num_ranks ? w.headers[s * kWidth + kHeaderRows] : 0;
    if (s < w.num_ranks) p.counts[s] = count;
    const unsigned senders = __ballot_sync(~0u, count > 0);
    if (senders == 0) continue;
    const int last = 31 - __clz(static_cast<int>(senders));
    end = (first + last) * p.block + __shfl_sync(~0u, count, last);
  }
  if (lane != 0) return;
  p.num_rows[0] = end;
  w.control[kControlEpoch] = epoch;
}

// Rows of bf16 are one wide part, and need not ask which one a piece is of.
template <int kLoads, bool kOneWidePart>
__global__ __launch_bounds__(kPushThreads, 2) void deliver_rows_kernel(
    const __grid_constant__ DeliverRowsParams p) {
  extern __shared__ int32_t deliver_shared[];
  int32_t* total = deliver_shared;                        // [P]
  int32_t* places = deliver_shared + p.window.num_ranks;  // [group_tokens, P]
  begin_waiting(p.window);
  if (p.part != PeerMeet::Wait) {
    push_groups<kLoads, kOneWidePart>(p, places, total);
    if (!is_last_block(p.window)) return;
  }
  if (threadIdx.x < 32) exchange_counts(p, total);
}

}  // namespace switchyard::cuda
