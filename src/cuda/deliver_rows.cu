// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/deliver_rows.cu
#include "cuda/deliver_rows.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

// Below as many parts of 8 loads a lane, parts of 2 use more multiprocessors.
constexpr int64_t kFewParts = kMaxPushBlocks * kDeliverWarps;

template <int kLoads>
void deliver_rows_with(const DeliverRows& op, DeliverRowsParams p, cudaStream_t stream) {
  const int64_t most = blocks_within(op.window.max_blocks, kMaxPushBlocks, kMaxPushBlocks);
  const int64_t tokens = p.num_tokens;
  p.pieces_per_row = cut_pieces(p.parts, kLoads);
  p.group_tokens =
      static_cast<int>(std::clamp(ceil_div(tokens, most), int64_t{1}, int64_t{kMaxGroupTokens}));
  p.num_groups = static_cast<int>(std::max(int64_t{1}, ceil_div(tokens, int64_t{p.group_tokens})));
  dim3 grid(1, 1);
  if (op.part != PeerMeet::Wait) {
    grid.x = static_cast<unsigned>(std::min<int64_t>(p.num_groups, most));
    const int64_t parts =
        ceil_div(int64_t{p.group_tokens} * p.pieces_per_row, int64_t{kDeliverWarps});
    grid.y = static_cast<unsigned>(std::clamp(most / grid.x, int64_t{1}, parts));
  }
  const size_t shared =
      sizeof(int32_t) * static_cast<size_t>(op.window.num_ranks) * (1 + p.group_tokens);
  const bool one_wide_part = op.rows.size() == 1 && p.parts[0].wide;
  const auto kernel =
      one_wide_part ? deliver_rows_kernel<kLoads, true> : deliver_rows_kernel<kLoads, false>;
  launch(kernel, grid, kPushThreads, shared, stream, p);
}

}  // namespace

template <>
void run(const DeliverRows& op, cudaStream_t stream) {
  DeliverRowsParams params{view_of(op.window),
                           {},
                           op.dst_ids.as<int32_t>(),
                           op.dst_weights.as<float>(),
                           op.dst_tokens.as<int32_t>(),
                           op.return_row.as<int32_t>(),
                           op.return_slot.as<int32_t>(),
                           op.sent.as<int32_t>(),
                           op.counts.as<int32_t>(),
                           op.num_rows.as<int32_t>(),
                           op.status.as<int32_t>(),
                           op.placement.present() ? op.placement.as<int32_t>() : nullptr,
                           op.ids.as<int32_t>(),
                           op.weights.as<float>(),
                           static_cast<int>(op.num_experts),
                           static_cast<int>(experts_of_rank(op.num_experts, op.window.num_ranks)),
                           static_cast<int>(op.ids.dim(0)),
                           static_cast<int>(op.ids.dim(1)),
                           static_cast<int>(op.block),
                           0,
                           0,
                           0,
                           static_cast<int32_t>(op.max_tokens),
                           static_cast<int32_t>(op.num_tokens),
                           op.tp_size,
                           op.part,
                           op.dropped.present() ? op.dropped.as<unsigned long long>() : nullptr};
  for (size_t i = 0; i < op.rows.size(); ++i)
    params.parts[i] = pushed_part(DeliverRows::kName, op.dst_rows[i], op.rows[i]);
  if (op.ids.dim(0) * cut_pieces(params.parts, 8) < kFewParts)
    deliver_rows_with<2>(op, params, stream);
  else
    deliver_rows_with<8>(op, params, stream);
}

}  // namespace switchyard::cuda
