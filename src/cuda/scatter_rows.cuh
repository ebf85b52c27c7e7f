// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/scatter_rows.cuh -- rows to their places in an expert buffer.
//
//     dst[row_of_slot[r, k]] = src[r]   for rows r in [0, num_rows) and every k with a row
//
// blockIdx.x walks the rows, blockIdx.y splits a row into pieces of kVectors * 128 vectors of 16
// bytes, or 4 where rows are no multiple of 16: few rows still make many blocks. A thread reads its vectors once, then writes them K
// times. Memory bound: reads R rows, writes at most R * K. Rows of peers cross the link once, while
// others are written: bound by whichever takes longer.
#pragma once

#include "cuda/peer_window.cuh"

namespace switchyard::cuda {

inline constexpr int kScatterThreads = 128;
// Slots whose rows a thread knows before it writes.
inline constexpr int kScatterSlots = 8;

// All rows are here, and nearly all have a slot.
template <class Word>
struct RowsHere {
  using Vector = Word;
  const Vector* rows;
  static constexpr bool kHasGaps = false;

  __device__ __forceinline__ int64_t row(int64_t i) const { return i; }
  __device__ __forceinline__ const Vector* at(int64_t r, int vectors_per_row) const {
    return rows + r * vectors_per_row;
  }
  static __device__ __forceinline__ Vector load(const Vector* at) { return *at; }
};

// Row r is row r % block of rank r / block.
template <class Word>
struct RowsOfPeers {
  using Vector = Word;
  PeerView peers;
  const Vector* rows;  // here; a peer's are at the same offset
  int block;
  static constexpr bool kHasGaps = true;

  // Source ranks in turn, each rank beginning with itself, so that all links work all the time.
  __device__ __forceinline__ int64_t row(int64_t i) const {
    const int t = static_cast<int>(i) / peers.num_ranks,
              q = static_cast<int>(i) - t * peers.num_ranks;
    return int64_t{(peers.rank + q) % peers.num_ranks} * block + t;
  }
  __device__ __forceinline__ const Vector* at(int64_t r, int vectors_per_row) const {
    const int rank = static_cast<int>(r) / block, t = static_cast<int>(r) - rank * block;
    return peers.at_peer(rank, rows) + int64_t{t} * vectors_per_row;
  }
  // Peers wrote while earlier kernels ran: through no cache that may not have seen it.
  static __device__ __forceinline__ Vector load(const Vector* at) { return __ldcg(at); }
};

__device__ __forceinline__ bool has_row(const int32_t* row_of_slot, int top_k) {
  bool any = false;  // without a branch, so that all words are on their way at once
  for (int k = 0; k < top_k; ++k) any |= __ldg(row_of_slot + k) != kNoRow;
  return any;
}

template <int kVectors, class Source>
__global__ __launch_bounds__(kScatterThreads) void scatter_rows_kernel(
    typename Source::Vector* __restrict__ dst, const __grid_constant__ Source src,
    const int32_t* __restrict__ row_of_slot, const int32_t* __restrict__ num_rows, int capacity,
    int top_k, int vectors_per_row) {
  using Vector = typename Source::Vector;
  wait_for_predecessor();
  allow_successor();
  const int rows = num_rows ? min(num_rows[0], capacity) : capacity;
  const int first =
      static_cast<int>(blockIdx.y) * kVectors * kScatterThreads + static_cast<int>(threadIdx.x);
  for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
    const int64_t r = src.row(i);
    if (Source::kHasGaps && !has_row(row_of_slot + r * top_k, top_k)) continue;
    const Vector* from = src.at(r, vectors_per_row);
    Vector x[kVectors];
#pragma unroll
    for (int n = 0; n < kVectors; ++n)
      if (const int v = first + n * kScatterThreads; v < vectors_per_row)
        x[n] = Source::load(from + v);
    for (int k = 0; k < top_k; k += kScatterSlots) {
      int32_t row[kScatterSlots];
#pragma unroll
      for (int j = 0; j < kScatterSlots; ++j)
        row[j] = k + j < top_k ? row_of_slot[r * top_k + k + j] : kNoRow;
#pragma unroll
      for (int j = 0; j < kScatterSlots; ++j) {
        if (row[j] == kNoRow) continue;
        Vector* to = dst + int64_t{row[j]} * vectors_per_row;
#pragma unroll
        for (int n = 0; n < kVectors; ++n)
          if (const int v = first + n * kScatterThreads; v < vectors_per_row) to[v] = x[n];
      }
    }
  }
}

}  // namespace switchyard::cuda
