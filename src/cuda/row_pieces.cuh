// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/row_pieces.cuh -- rows of peers, cut into pieces that few blocks take in turn.
#pragma once

#include <algorithm>
#include <span>

#include "base/checked.h"
#include "base/require.h"
#include "cuda/launch.h"

namespace switchyard::cuda {

inline constexpr int kPushThreads = 256;

// 64 KiB on their way per block: two blocks on each of 132 multiprocessors keep a link full.
// measured: 2x H100, pushes of 64 MiB: 347 GB/s by 64 blocks of 512 threads, 365 by 264.
inline constexpr int64_t kMaxPushBlocks = 264;

// A warp with all of a piece's loads on their way keeps a link busy with few blocks.
inline constexpr int kPieceVectors = 8;  // a lane's
inline constexpr int kPieceRanks = 2;    // whose pieces are on their way at once

// What each of the rows has of 16 bytes.
inline int64_t row_vectors(const char* operation, ConstTensor rows) {
  const int64_t row_bytes = rows.dim(1) * dtype_bytes(rows.dtype);
  SWITCHYARD_REQUIRE(row_bytes % 16 == 0, Misaligned, operation, ": row bytes=", row_bytes,
                     ", need a multiple of 16 (rows move as vectors of so many bytes).");
  return row_bytes / 16;
}

struct RowPiece {
  int64_t row;
  int begin;  // this lane's first vector; the others follow 32 apart
};

// Warps of the grid take the pieces of all rows in turn: take(piece).
template <class Take>
__device__ __forceinline__ void for_each_piece(int num_rows, int vectors_per_row,
                                               const Take& take) {
  constexpr int kWidth = 32 * kPieceVectors;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int pieces_per_row = (vectors_per_row + kWidth - 1) / kWidth;
  const int64_t num_pieces = int64_t{num_rows} * pieces_per_row;
  const int64_t stride = int64_t{gridDim.x} * (kPushThreads / 32);
  for (int64_t i = int64_t{blockIdx.x} * (kPushThreads / 32) + threadIdx.x / 32; i < num_pieces;
       i += stride) {
    const int64_t row = i / pieces_per_row;
    take(RowPiece{row, static_cast<int>(i - row * pieces_per_row) * kWidth + lane});
  }
}

__device__ __forceinline__ void load_piece(uint4 (&x)[kPieceVectors], const uint4* row, int begin,
                                           int vectors_per_row) {
#pragma unroll
  for (int j = 0; j < kPieceVectors; ++j)
    if (const int v = begin + j * 32; v < vectors_per_row) x[j] = __ldcg(row + v);
}

// A part of rows that are pushed, in vectors of 16 bytes where it is wide, else of 4.
struct PushedPart {
  std::byte* dst;        // [P * block, W] here; a peer's stand at the same offset
  const std::byte* src;  // [T, W]
  int vectors_per_row, pieces_per_row;
  bool wide;
};

inline PushedPart pushed_part(const char* operation, Tensor dst, ConstTensor src) {
  constexpr int64_t kWide = sizeof(uint4), kNarrow = sizeof(uint32_t);
  const int64_t row_bytes = src.dim(1) * dtype_bytes(src.dtype);
  SWITCHYARD_REQUIRE(row_bytes % kNarrow == 0, Misaligned, operation, ": row bytes=", row_bytes,
                     ", need a multiple of 4.");
  const bool wide = row_bytes % kWide == 0;
  return {dst.as<std::byte>(), src.as<std::byte>(),
          static_cast<int>(row_bytes / (wide ? kWide : kNarrow)), 0, wide};
}

// In pieces of `loads` vectors a lane; returns those of a row.
inline int cut_pieces(std::span<PushedPart> parts, int loads) {
  int pieces_per_row = 0;
  for (PushedPart& part : parts)
    pieces_per_row += part.pieces_per_row = ceil_div(part.vectors_per_row, 32 * loads);
  return pieces_per_row;
}

// A piece of the part of row t: read once, then stored by push(dst, store), which calls
// store(rows, row) for each place that it goes to. One warp.
template <int kLoads, class Vector, class Push>
__device__ __forceinline__ void push_piece(const PushedPart& part, int t, int piece,
                                           const Push& push) {
  const int begin = piece * kLoads * 32 + static_cast<int>(threadIdx.x) % 32;
  const auto* src = reinterpret_cast<const Vector*>(part.src) + int64_t{t} * part.vectors_per_row;
  Vector x[kLoads];
#pragma unroll
  for (int j = 0; j < kLoads; ++j)
    if (const int v = begin + j * 32; v < part.vectors_per_row) x[j] = __ldg(src + v);
  push(reinterpret_cast<Vector*>(part.dst), [&](Vector* rows, int64_t row) {
    Vector* dst = rows + row * part.vectors_per_row;
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
      if (const int v = begin + j * 32; v < part.vectors_per_row) dst[v] = x[j];
  });
}

// The same of the pieces of all parts, in their order.
template <int kLoads, class Push>
__device__ __forceinline__ void push_piece_of_row(const PushedPart* parts, int t, int piece,
                                                  const Push& push) {
  int i = 0;
  while (piece >= parts[i].pieces_per_row) piece -= parts[i++].pieces_per_row;
  const PushedPart& part = parts[i];
  part.wide ? push_piece<kLoads, uint4>(part, t, piece, push)
            : push_piece<kLoads, uint32_t>(part, t, piece, push);
}

inline int64_t blocks_within(int max_blocks, int64_t wanted, int64_t most) {
  return std::min(wanted, max_blocks > 0 ? max_blocks : most);
}

// A warp for each piece of a row, within max_blocks.
inline int64_t blocks_of_pieces(int max_blocks, int64_t num_rows, int64_t vectors_per_row) {
  const int64_t pieces = num_rows * ceil_div(vectors_per_row, int64_t{32 * kPieceVectors});
  return blocks_within(max_blocks, ceil_div(pieces, int64_t{kPushThreads / 32}), kMaxPushBlocks);
}

}  // namespace switchyard::cuda
