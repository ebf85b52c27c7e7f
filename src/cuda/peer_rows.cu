// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/peer_rows.cu
#include "cuda/peer_rows.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

// Below as many parts of 8 loads a lane, parts of 2 use more multiprocessors.
constexpr int64_t kFewPushParts = kMaxPushBlocks * kPushThreads / 32;

int64_t vectors_of(const char* op, ConstTensor rows) {
  SWITCHYARD_REQUIRE(rows.dim(1) % 8 == 0, Misaligned, op, ": H=", rows.dim(1),
                     ", need a multiple of 8 (rows move as 16-byte vectors of bf16).");
  return rows.dim(1) * dtype_bytes(rows.dtype) / 16;
}

template <int kLoads>
void push_rows_with(const PeerWindow& window, PushRowsParams params, cudaStream_t stream) {
  params.pieces_per_row = cut_pieces(params.parts, kLoads);
  const int64_t parts = ceil_div(int64_t{params.block}, int64_t{kSlotRows}) +
                        int64_t{params.num_tokens} * params.pieces_per_row;
  launch(
      push_rows_kernel<kLoads>,
      blocks_within(window.max_blocks, ceil_div(parts, int64_t{kPushThreads / 32}), kMaxPushBlocks),
      kPushThreads, 0, stream, params);
}

}  // namespace

template <>
void run(const PushRows& op, cudaStream_t stream) {
  const bool moves = op.route != PeerRoute::Nobody;
  PushRowsParams params{.window = view_of(op.window),
                        .parts = {},
                        .dst_ids = op.dst_ids.as<int32_t>(),
                        .dst_weights = moves ? op.dst_weights.as<float>() : nullptr,
                        .return_row = op.return_row.as<int32_t>(),
                        .ids = op.ids.as<int32_t>(),
                        .weights = moves ? op.weights.as<float>() : nullptr,
                        .status = op.status.as<int32_t>(),
                        .num_experts = op.num_experts,
                        .experts_per_rank = experts_of_rank(op.num_experts, op.window.num_ranks),
                        .first_row = static_cast<int>(moves ? op.window.rank * op.block : 0),
                        .num_tokens = static_cast<int>(op.ids.dim(0)),
                        .top_k = static_cast<int>(op.ids.dim(1)),
                        .block = static_cast<int>(op.block),
                        .pieces_per_row = 0,
                        .route = op.route};
  if (moves && !op.is_in_place())  // else no row is copied
    for (size_t i = 0; i < op.rows.size(); ++i)
      params.parts[i] = pushed_part(PushRows::kName, op.dst_rows[i], op.rows[i]);
  if (op.ids.dim(0) * cut_pieces(params.parts, 8) < kFewPushParts)
    push_rows_with<2>(op.window, params, stream);
  else
    push_rows_with<8>(op.window, params, stream);
}

template <>
void run(const PullSlices& op, cudaStream_t stream) {
  const int64_t vectors = vectors_of("pull_slices", op.dst);
  const PullSlicesParams params{view_of(op.window),
                                op.dst.as<uint4>(),
                                op.slice.as<uint4>(),
                                op.status.as<int32_t>(),
                                op.first,
                                static_cast<int>(op.dst.dim(0)),
                                static_cast<int>(ceil_div(op.dst.dim(0), int64_t{op.num})),
                                static_cast<int>(vectors)};
  launch(pull_slices_kernel, blocks_of_pieces(op.window.max_blocks, op.dst.dim(0), vectors),
         kPushThreads, 0, stream, params);
}

}  // namespace switchyard::cuda
