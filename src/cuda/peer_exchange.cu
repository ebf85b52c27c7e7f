// src/cuda/peer_exchange.cu
#include "cuda/peer_exchange.cuh"

#include "cuda/ops.h"

namespace switchyard::cuda {

void await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part, Tensor status,
                cudaStream_t stream) {
  const AwaitRowsParams params{view_of(window),
                               arrival.num_rows.as<int32_t>(),
                               status.as<int32_t>(),
                               part,
                               static_cast<int32_t>(arrival.max_tokens),
                               static_cast<int32_t>(arrival.num_tokens),
                               static_cast<int32_t>(arrival.rows),
                               arrival.tp_size};
  launch(await_rows_kernel, 1, 32, 0, stream, params);
}

void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                Tensor status, cudaStream_t stream) {
  const MeetPeersParams params{view_of(window), status.as<int32_t>(), phase, part, first, num};
  launch(meet_peers_kernel, 1, 32, 0, stream, params);
}

}  // namespace switchyard::cuda
