// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/row_blocks.cuh -- pack_rows and unpack_rows: rows into and out of the blocks that travel
// between ranks.
//
// Both walk rows in the order in which they are sent or were received; which rank a row belongs to
// is found in the prefix sums of P counts, which every block computes anew (P loads out of L2). A
// warp takes pieces of 8 vectors per lane, all on their way at once. Memory bound: every row is
// read and written once.
#pragma once

#include "cuda/launch.h"

namespace switchyard::cuda {

inline constexpr int kRowBlocksThreads = 256;
inline constexpr int kRowBlocksLoads = 8;
inline constexpr int kRowBlocksPiece = 32 * kRowBlocksLoads;  // vectors

// Vector: uint4 where every row begins at a multiple of 16 bytes, else uint32_t.
template <class Vector>
struct RowBlocksParams {
  Vector* dst;
  const Vector* src;         // unpack: the blocks that came
  const Vector* own;         // unpack: the blocks that this rank packed
  const int32_t* send_rows;  // pack: may be null
  const int32_t* counts;     // [P, P]
  int64_t block;
  int num_ranks, rank;
  int vectors_per_row, pieces_per_row;
};

// first[p] = counts of the ranks before p, for p in [0, P]; count p stands at counts[p * stride].
// One whole block.
__device__ __forceinline__ void sum_counts(int32_t* first, const int32_t* counts, int stride,
                                           int num_ranks) {
  const int lane = threadIdx.x;
  if (lane < 32) {
    int32_t before = 0;
    for (int begin = 0; begin < num_ranks; begin += 32) {
      int32_t sum = begin + lane < num_ranks ? counts[(begin + lane) * stride] : 0;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int32_t other = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += other;
      }
      if (begin + lane < num_ranks) first[begin + lane + 1] = before + sum;
      before += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) first[0] = 0;
  }
  __syncthreads();
}

// The rank among whose rows row n is: the lowest p with n < first[p + 1]. n < first[P].
__device__ __forceinline__ int rank_of_row(const int32_t* first, int num_ranks, int64_t n) {
  int low = 0, high = num_ranks - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (n < first[middle + 1])
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// Piece `piece` of one row. One warp.
template <class Vector>
__device__ __forceinline__ void copy_piece(Vector* dst, const Vector* src, int piece,
                                           int vectors_per_row) {
  const int begin = piece * kRowBlocksPiece + static_cast<int>(threadIdx.x) % 32;
  Vector x[kRowBlocksLoads];
#pragma unroll
  for (int j = 0; j < kRowBlocksLoads; ++j)
    if (const int v = begin + j * 32; v < vectors_per_row) x[j] = src[v];
#pragma unroll
  for (int j = 0; j < kRowBlocksLoads; ++j)
    if (const int v = begin + j * 32; v < vectors_per_row) dst[v] = x[j];
}

template <class Vector>
__global__ __launch_bounds__(kRowBlocksThreads) void pack_rows_kernel(
    const __grid_constant__ RowBlocksParams<Vector> p) {
  extern __shared__ int32_t first[];  // [P + 1]
  wait_for_predecessor();
  allow_successor();
  sum_counts(first, p.counts + p.rank * p.num_ranks, 1, p.num_ranks);
  const int64_t num_pieces = int64_t{first[p.num_ranks]} * p.pieces_per_row;
  const int64_t stride = int64_t{gridDim.x} * (kRowBlocksThreads / 32);
  for (int64_t i = int64_t{blockIdx.x} * (kRowBlocksThreads / 32) + threadIdx.x / 32;
       i < num_pieces; i += stride) {
    const int64_t n = i / p.pieces_per_row;
    const int d = rank_of_row(first, p.num_ranks, n);
    const int64_t from = p.send_rows != nullptr ? p.send_rows[n] : n;
    const int64_t to = p.block == 0 ? n : d * p.block + n - first[d];
    copy_piece(p.dst + to * p.vectors_per_row, p.src + from * p.vectors_per_row,
               static_cast<int>(i - n * p.pieces_per_row), p.vectors_per_row);
  }
}

template <class Vector>
__global__ __launch_bounds__(kRowBlocksThreads) void unpack_rows_kernel(
    const __grid_constant__ RowBlocksParams<Vector> p) {
  extern __shared__ int32_t first[];  // [P + 1]
  wait_for_predecessor();
  allow_successor();
  sum_counts(first, p.counts + p.rank, p.num_ranks, p.num_ranks);
  const int64_t num_pieces = int64_t{first[p.num_ranks]} * p.pieces_per_row;
  const int64_t stride = int64_t{gridDim.x} * (kRowBlocksThreads / 32);
  for (int64_t i = int64_t{blockIdx.x} * (kRowBlocksThreads / 32) + threadIdx.x / 32;
       i < num_pieces; i += stride) {
    const int64_t n = i / p.pieces_per_row;
    const int s = rank_of_row(first, p.num_ranks, n);
    const Vector* blocks = s == p.rank ? p.own : p.src;
    const int64_t from = s * p.block + n - first[s];
    copy_piece(p.dst + n * p.vectors_per_row, blocks + from * p.vectors_per_row,
               static_cast<int>(i - n * p.pieces_per_row), p.vectors_per_row);
  }
}

}  // namespace switchyard::cuda
