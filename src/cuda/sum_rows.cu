// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/sum_rows.cu
#include "cuda/sum_rows.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"
#include "cuda/sum_peers.cuh"

namespace switchyard::cuda {
namespace {

// More rows are walked in strides: a capacity that is mostly unused costs few empty blocks.
constexpr int64_t kMaxBlocksOfRows = 4096;

// Blocks along x for rows, along y for pieces of a row.
dim3 grid_of_rows(int64_t num_rows, int64_t vectors_per_row) {
  return dim3(static_cast<unsigned>(std::min(num_rows, kMaxBlocksOfRows)),
              static_cast<unsigned>(ceil_div(vectors_per_row, int64_t{kSumThreads})));
}

void sum_here(const SumRows& op, cudaStream_t stream) {
  const int64_t capacity = op.sums.row_of_slot.dim(0), vectors = op.dst.dim(1) / 8;
  const SumRowsParams params{sums_out(op.dst, op.addend),
                             view_of(op.sums),
                             op.num_rows.present() ? op.num_rows.as<int32_t>() : nullptr,
                             op.poison.present() ? op.poison.as<int32_t>() : nullptr,
                             static_cast<int>(capacity),
                             static_cast<int>(vectors),
                             static_cast<int>(op.kept.range.begin),
                             static_cast<int>(op.kept.range.size),
                             op.kept.empty};
  const dim3 grid = grid_of_rows(capacity - op.kept.range.size, vectors);
  if (op.sums.rows.dtype == DType::F32)
    launch(sum_rows_kernel<F32Vector>, grid, kSumThreads, 0, stream, params);
  else
    launch(sum_rows_kernel<Bf16Vector>, grid, kSumThreads, 0, stream, params);
}

void sum_peers(const SumRows& op, cudaStream_t stream) {
  const int64_t num_tokens = op.dst.dim(0), vectors = op.dst.dim(1) / 8;
  const SumPeersParams params{view_of(op.peers),         sums_out(op.dst, op.addend),
                              op.sums.rows.as<uint4>(),  op.sums.row_of_slot.as<int32_t>(),
                              op.status.as<int32_t>(),   static_cast<int>(num_tokens),
                              static_cast<int>(vectors), view_of(op.own)};
  const dim3 grid = grid_of_rows(num_tokens, vectors);
  if (op.own.rows.present())
    launch(sum_peers_kernel<2, true>, grid, kSumThreads, 0, stream, params);
  else if (op.max_blocks > 0)
    launch(sum_peers_in_pieces_kernel, blocks_of_pieces(op.max_blocks, num_tokens, vectors),
           kPushThreads, 0, stream, params);
  else
    launch(sum_peers_kernel<kSumLoads, false>, grid, kSumThreads, 0, stream, params);
}

}  // namespace

template <>
void run(const SumRows& op, cudaStream_t stream) {
  SWITCHYARD_REQUIRE(op.dst.dim(1) % 8 == 0, Misaligned, op.name, ": H=", op.dst.dim(1),
                     ", need a multiple of 8 (rows are read as 16-byte vectors of bf16).");
  op.peers.present() ? sum_peers(op, stream) : sum_here(op, stream);
}

}  // namespace switchyard::cuda
