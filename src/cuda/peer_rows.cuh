// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/peer_rows.cuh -- push_rows and pull_slices: rows between windows.
//
// Rows move as vectors of 16 bytes, parts of them that are no multiple of that by words. A warp takes a piece of a row: up to 8 loads on their way per
// lane, then a store to each rank that gets the token. None of these kernels waits.
// Bound by the link: T * (ranks that get a token, own excluded) rows each way.
#pragma once

#include "cuda/peer_window.cuh"
#include "cuda/row_pieces.cuh"
#include "plan/row_layout.h"

namespace switchyard::cuda {

inline constexpr int kSlotRows = 8;  // rows whose ids and weights a warp sends at a time

struct PushRowsParams {
  WindowView window;
  PushedPart parts[kMaxRowParts];
  int32_t* dst_ids;      // [P * block, K]
  float* dst_weights;    // [P * block, K]
  int32_t* return_row;   // [T, P]
  const int32_t* ids;    // [T, K]
  const float* weights;  // [T, K]
  const int32_t* status;
  int64_t num_experts, experts_per_rank;
  int first_row;  // of this rank's block
  int num_tokens, top_k, block;
  int pieces_per_row;  // of all parts
  PeerRoute route;
};

__device__ __forceinline__ int32_t local_id(const PushRowsParams& p, int32_t id, int rank) {
  const int64_t local = id - rank * p.experts_per_rank;
  return is_expert(local, p.experts_per_rank) ? static_cast<int32_t>(local) : kNoExpert;
}

// Ids and weights of rows [begin, begin + kSlotRows) of this rank's block, and where those tokens'
// partial rows will be. One warp.
__device__ __forceinline__ void push_slots(const PushRowsParams& p, int begin) {
  const WindowView& w = p.window;
  const int lane = threadIdx.x % 32;
  const bool moves = p.route != PeerRoute::Nobody;
  const int num_tokens = min(kSlotRows, p.num_tokens - begin);
  for (int i = lane; i < num_tokens * w.num_ranks; i += 32) {
    const int t = begin + i / w.num_ranks, rank = i % w.num_ranks;
    bool owns = false;
#pragma unroll 8
    for (int k = 0; k < p.top_k; ++k)
      owns |= local_id(p, __ldg(p.ids + int64_t{t} * p.top_k + k), rank) != kNoExpert;
    p.return_row[int64_t{t} * w.num_ranks + rank] = owns ? p.first_row + t : kNoRow;
  }
  const int64_t num_slots = int64_t{p.num_tokens} * p.top_k, first = int64_t{begin} * p.top_k,
                end = int64_t{min(begin + kSlotRows, p.block)} * p.top_k;
#pragma unroll 2
  for (int64_t s = first + lane; s < end; s += 32) {
    const bool is_token = s < num_slots;
    const int32_t id = is_token ? __ldg(p.ids + s) : kNoExpert;
    if (!is_valid_id(id, p.num_experts))
      atomicMax(reinterpret_cast<unsigned long long*>(w.control + kControlBadId),
                static_cast<unsigned long long>(bad_id_word(s, id)));
    const float weight = is_token && moves ? __ldg(p.weights + s) : 0.0f;
    const int64_t at = int64_t{p.first_row} * p.top_k + s;
    for (int q = 1; q <= w.num_ranks; ++q) {
      const int rank = (w.rank + q) % w.num_ranks;
      if (!moves && rank != w.rank) continue;
      w.at_peer(rank, p.dst_ids)[at] = local_id(p, id, rank);
      if (is_token && moves) w.at_peer(rank, p.dst_weights)[at] = weight;
    }
  }
}

// Whether `rank` owns an expert of token t. One warp.
__device__ __forceinline__ bool is_owner(const PushRowsParams& p, int t, int rank) {
  bool owns = false;
  for (int k = threadIdx.x % 32; k < p.top_k; k += 32)
    owns |= local_id(p, __ldg(p.ids + int64_t{t} * p.top_k + k), rank) != kNoExpert;
  return __any_sync(~0u, owns);
}

// Where the row of token t goes.
template <int kLoads>
__device__ __forceinline__ void push_piece_of_token(const PushRowsParams& p, int t, int piece) {
  push_piece_of_row<kLoads>(p.parts, t, piece, [&](auto* here, const auto& store) {
    const WindowView& w = p.window;
    if (p.route == PeerRoute::Offered) return store(here, t);
    // Other ranks first, each rank beginning with the next one, so that links share the load.
    for (int q = 1; q <= w.num_ranks; ++q) {
      const int rank = (w.rank + q) % w.num_ranks;
      if (p.route == PeerRoute::Everyone || is_owner(p, t, rank))
        store(w.at_peer(rank, here), p.first_row + t);
    }
  });
}

// Warps take the slots of a few rows, then pieces of rows.
template <int kLoads>
__global__ __launch_bounds__(kPushThreads,
                             2) void push_rows_kernel(const __grid_constant__ PushRowsParams p) {
  wait_for_predecessor();
  allow_successor();
  if (!is_good(p.status)) return;
  const int64_t num_slot_parts = (p.block + kSlotRows - 1) / kSlotRows;
  const int64_t num_parts =
      num_slot_parts +
      (p.route == PeerRoute::Nobody ? 0 : int64_t{p.num_tokens} * p.pieces_per_row);
  const int64_t stride = int64_t{gridDim.x} * (kPushThreads / 32);
  for (int64_t i = int64_t{blockIdx.x} * (kPushThreads / 32) + threadIdx.x / 32; i < num_parts;
       i += stride) {
    if (i < num_slot_parts) {
      push_slots(p, static_cast<int>(i) * kSlotRows);
      continue;
    }
    const int64_t row_part = i - num_slot_parts;
    const int t = static_cast<int>(row_part / p.pieces_per_row);
    push_piece_of_token<kLoads>(p, t, static_cast<int>(row_part - int64_t{t} * p.pieces_per_row));
  }
  // A peer that is told of these rows sees them.
  __threadfence_system();
}

struct PullSlicesParams {
  WindowView window;
  uint4* dst;          // bf16 [T, H]
  const uint4* slice;  // bf16 [C, H] here; a peer's stand at the same offset
  const int32_t* status;
  int first, num_tokens, chunk, vectors_per_row;
};

__global__ __launch_bounds__(kPushThreads) void pull_slices_kernel(
    const __grid_constant__ PullSlicesParams p) {
  wait_for_predecessor();
  allow_successor();
  if (!is_good(p.status)) return;
  const int vectors = p.vectors_per_row;
  for_each_piece(p.num_tokens, vectors, [&](const RowPiece& piece) {
    const int t = static_cast<int>(piece.row);
    const uint4* slice = p.window.at_peer(p.first + t / p.chunk, p.slice);
    uint4 x[kPieceVectors];
    load_piece(x, slice + int64_t{t % p.chunk} * vectors, piece.begin, vectors);
#pragma unroll
    for (int j = 0; j < kPieceVectors; ++j)
      if (const int v = piece.begin + j * 32; v < vectors) p.dst[piece.row * vectors + v] = x[j];
  });
}

}  // namespace switchyard::cuda
