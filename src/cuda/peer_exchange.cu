// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/peer_exchange.cu
#include "cuda/peer_exchange.cuh"

#include "cuda/run.h"

namespace switchyard::cuda {

template <>
void run(const AwaitRows& op, cudaStream_t stream) {
  const AwaitRowsParams params{view_of(op.window),
                               op.num_rows.as<int32_t>(),
                               op.status.as<int32_t>(),
                               op.placement.present() ? op.placement.as<int32_t>() : nullptr,
                               op.part,
                               static_cast<int32_t>(op.max_tokens),
                               static_cast<int32_t>(op.num_tokens),
                               static_cast<int32_t>(op.rows),
                               op.tp_size};
  launch(await_rows_kernel, 1, 32, 0, stream, params);
}

template <>
void run(const MeetPeers& op, cudaStream_t stream) {
  const MeetPeersParams params{
      view_of(op.window), op.status.as<int32_t>(), op.phase, op.part, op.first, op.num};
  launch(meet_peers_kernel, 1, 32, 0, stream, params);
}

}  // namespace switchyard::cuda
