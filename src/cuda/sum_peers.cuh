// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/sum_peers.cuh -- sum_rows over rows of peers: a base per term. Peers wrote while earlier
// kernels ran: no load goes through a cache that may not have seen it. None of these kernels waits.
// Bound by the link: T * (terms of other ranks) * H * 2 bytes.
#pragma once

#include "cuda/peer_window.cuh"
#include "cuda/row_pieces.cuh"
#include "cuda/row_sums.cuh"

namespace switchyard::cuda {

struct SumPeersParams {
  PeerView peers;
  SumsOut out;                // [T, H]
  const uint4* partial;       // bf16 [R, H] here; a peer's are at the same offset
  const int32_t* return_row;  // [T, P]
  const int32_t* status;
  int num_tokens, vectors_per_row;
  SlotSumsView own;  // of token t; rows null: this rank's terms are in `partial`, too
};

// As sum_rows_kernel, with a base per term, of which kRanks are on their way at once. Peers wrote
// while earlier kernels ran: no load goes through a cache that may not have seen it.
//
// kOwnSums: this rank's terms come from the rows that they are sums of, after what comes over the
// link, so that memory works meanwhile. Few registers (0 blocks: as many as it likes), so that many
// loads are on their way.
// measured: 2x H200, combine of 4096 x 7168: with 8 loads of own rows and 102 registers 228 us,
// with 4 and 78 198, with 4 and 63 191; without own sums 190.
template <int kRanks, bool kOwnSums>
__global__ __launch_bounds__(kSumThreads, kOwnSums ? 8 : 0) void sum_peers_kernel(
    const __grid_constant__ SumPeersParams p) {
  wait_for_predecessor();
  allow_successor();
  const int v = static_cast<int>(blockIdx.y) * kSumThreads + static_cast<int>(threadIdx.x);
  if (v >= p.vectors_per_row || !is_good(p.status)) return;
  const PeerView& w = p.peers;
  const auto is_own = [&](int rank) { return kOwnSums && rank == w.rank; };
  for (int64_t t = blockIdx.x; t < p.num_tokens; t += gridDim.x) {
    const int32_t* places = p.return_row + t * w.num_ranks;
    float sums[8] = {};
    for (int r = 0; r < w.num_ranks; r += kRanks) {
      int32_t place[kRanks];
      uint4 x[kRanks], own{};
#pragma unroll
      for (int j = 0; j < kRanks; ++j)
        place[j] = r + j < w.num_ranks ? __ldg(places + r + j) : kNoRow;
#pragma unroll
      for (int j = 0; j < kRanks; ++j)
        if (place[j] != kNoRow && !is_own(r + j))
          x[j] = __ldcg(w.at_peer(r + j, p.partial) + int64_t{place[j]} * p.vectors_per_row + v);
      if constexpr (kOwnSums)
        if (r <= w.rank && w.rank < r + kRanks && __ldg(places + w.rank) != kNoRow) {
          float own_sums[8] = {};
          (void)add_row<4>(own_sums, p.own, t, p.vectors_per_row, v);
          own = rounded(own_sums);
        }
#pragma unroll
      for (int j = 0; j < kRanks; ++j)
        if (place[j] != kNoRow) add_scaled(sums, 1.0f, is_own(r + j) ? own : x[j]);
    }
    store_sums(p.out, t * p.vectors_per_row + v, sums, t);
  }
}

// The bits of sum_peers_kernel by few blocks.
__global__ __launch_bounds__(kPushThreads) void sum_peers_in_pieces_kernel(
    const __grid_constant__ SumPeersParams p) {
  wait_for_predecessor();
  allow_successor();
  if (!is_good(p.status)) return;
  const PeerView& w = p.peers;
  const int vectors = p.vectors_per_row;
  for_each_piece(p.num_tokens, vectors, [&](const RowPiece& piece) {
    const int32_t* places = p.return_row + piece.row * w.num_ranks;
    float sums[kPieceVectors][8] = {};
    for (int r = 0; r < w.num_ranks; r += kPieceRanks) {
      int32_t place[kPieceRanks];
      uint4 x[kPieceRanks][kPieceVectors];
#pragma unroll
      for (int q = 0; q < kPieceRanks; ++q) {
        place[q] = r + q < w.num_ranks ? __ldg(places + r + q) : kNoRow;
        if (place[q] != kNoRow)
          load_piece(x[q], w.at_peer(r + q, p.partial) + int64_t{place[q]} * vectors, piece.begin,
                     vectors);
      }
#pragma unroll
      for (int q = 0; q < kPieceRanks; ++q)
#pragma unroll
        for (int j = 0; j < kPieceVectors; ++j)
          if (place[q] != kNoRow && piece.begin + j * 32 < vectors)
            add_scaled(sums[j], 1.0f, x[q][j]);
    }
#pragma unroll
    for (int j = 0; j < kPieceVectors; ++j)
      if (const int v = piece.begin + j * 32; v < vectors)
        store_sums(p.out, piece.row * vectors + v, sums[j], piece.row);
  });
}

}  // namespace switchyard::cuda
