// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/return_rows.cu -- sums of experts, or their rows, to the ranks that the tokens came from;
// tell; wait.
//
// Warps of the grid take the received rows' pieces in turn, source after source, each rank beginning
// with the next one: a lane sums a vector, up to kSumLoads loads on their way, and stores it
// in the source's window. The last block to be done tells the peers, and its first warp waits for
// them.
// Bound by the link: rows that came from other ranks * H * 2 bytes; or by reading K times as much.
#include <algorithm>

#include "base/checked.h"
#include "cuda/peer_meeting.cuh"
#include "cuda/row_pieces.cuh"
#include "cuda/row_sums.cuh"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

struct ReturnRowsParams {
  WindowView window;
  SlotSumsView sums;  // of received rows; rows null: none came; row_of_slot null: they are the rows
  const int32_t* counts;  // [P]
  const int32_t* tokens;  // [P * block] or null
  uint4* dst;             // here; a peer's stand at the same offset
  int32_t* status;
  int block, vectors_per_row;
  PeerMeet part;
};

// Vector v of a partial row.
template <class Vector>
struct PartialRow {
  static __device__ __forceinline__ void push(const ReturnRowsParams& p, int source, int n, int v) {
    const int64_t r = int64_t{source} * p.block + n;
    uint4 x;
    if (p.sums.row_of_slot == nullptr) {
      x = static_cast<const uint4*>(p.sums.rows)[r * p.vectors_per_row + v];
    } else {
      float sums[8] = {};
      constexpr int kLoads = kSumLoads * static_cast<int>(sizeof(uint4)) / sizeof(Vector);
      (void)add_row<kLoads, Vector>(sums, p.sums, r, p.vectors_per_row, v);
      x = rounded(sums);
    }
    const int64_t to = int64_t{p.window.rank} * p.block + n;
    p.window.at_peer(source, p.dst)[to * p.vectors_per_row + v] = x;
  }
};

// Vector v of the row of each slot.
struct SlotRows {
  static __device__ __forceinline__ void push(const ReturnRowsParams& p, int source, int n, int v) {
    const int64_t r = int64_t{source} * p.block + n;
    const int top_k = p.sums.num_terms;
    const int32_t* rows = p.sums.row_of_slot + r * top_k;
    uint4* dst =
        p.window.at_peer(source, p.dst) + int64_t{p.tokens[r]} * top_k * p.vectors_per_row + v;
    for (int k = 0; k < top_k; k += kSumLoads) {
      int32_t row[kSumLoads];
      uint4 x[kSumLoads];
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j) row[j] = k + j < top_k ? __ldg(rows + k + j) : kNoRow;
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        if (row[j] != kNoRow)
          x[j] = __ldg(static_cast<const uint4*>(p.sums.rows) +
                       int64_t{row[j]} * p.vectors_per_row + v);
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        if (row[j] != kNoRow) dst[int64_t{k + j} * p.vectors_per_row] = x[j];
    }
  }
};

template <class Row>
__device__ __forceinline__ void push_all(const ReturnRowsParams& p) {
  const WindowView& w = p.window;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int pieces_per_row = (p.vectors_per_row + 31) / 32;
  const int64_t stride = int64_t{gridDim.x} * (kPushThreads / 32);
  int64_t piece = int64_t{blockIdx.x} * (kPushThreads / 32) + threadIdx.x / 32;
  int64_t first = 0;  // piece of the source
  for (int q = 1; q <= w.num_ranks; ++q) {
    const int source = (w.rank + q) % w.num_ranks;
    const int64_t end = first + int64_t{p.counts[source]} * pieces_per_row;
    for (; piece < end; piece += stride) {
      const int64_t row = (piece - first) / pieces_per_row;
      const int v = static_cast<int>(piece - first - row * pieces_per_row) * 32 + lane;
      if (v < p.vectors_per_row) Row::push(p, source, static_cast<int>(row), v);
    }
    first = end;
  }
}

template <class Row>
__global__ __launch_bounds__(kPushThreads, 2) void return_rows_kernel(
    const __grid_constant__ ReturnRowsParams p) {
  begin_waiting(p.window);
  if (p.part != PeerMeet::Wait) {
    if (p.sums.rows != nullptr && is_good(p.status)) push_all<Row>(p);
    if (!is_last_block(p.window)) return;
  }
  if (threadIdx.x < 32)
    meet_of_warp(p.window, PeerPhase::Partials, p.part, 0, p.window.num_ranks, p.status);
}

SlotSumsView view_of_received(const SlotSums& sums) {
  if (!sums.rows.present() || sums.row_of_slot.present()) return view_of(sums);
  return {sums.rows.data, nullptr, nullptr, 1};
}

}  // namespace

template <>
void run(const ReturnRows& op, cudaStream_t stream) {
  const int64_t vectors = row_vectors(ReturnRows::kName, op.dst);
  const ReturnRowsParams params{view_of(op.window),
                                view_of_received(op.sums),
                                op.counts.as<int32_t>(),
                                op.is_of_slots() ? op.tokens.as<int32_t>() : nullptr,
                                op.dst.as<uint4>(),
                                op.status.as<int32_t>(),
                                static_cast<int>(op.block),
                                static_cast<int>(vectors),
                                op.part};
  // As many blocks as are resident at once, or the most that there can be work for.
  const int64_t pieces = op.window.num_ranks * op.block * ceil_div(vectors, int64_t{32});
  const bool pushes = op.part != PeerMeet::Wait && op.sums.rows.present();
  const int64_t wanted =
      pushes ? std::clamp(ceil_div(pieces, int64_t{kPushThreads / 32}), int64_t{1}, kMaxPushBlocks)
             : 1;
  const auto blocks =
      static_cast<unsigned>(blocks_within(op.window.max_blocks, wanted, kMaxPushBlocks));
  const auto go = [&](auto* kernel) { launch(kernel, blocks, kPushThreads, 0, stream, params); };
  if (op.is_of_slots())
    go(return_rows_kernel<SlotRows>);
  else if (op.sums.rows.present() && op.sums.rows.dtype == DType::F32)
    go(return_rows_kernel<PartialRow<F32Vector>>);
  else
    go(return_rows_kernel<PartialRow<Bf16Vector>>);
}

}  // namespace switchyard::cuda
