// src/cuda/peer_exchange.cu
#include "cuda/peer_exchange.cuh"

#include "cuda/ops.h"

namespace switchyard::cuda {
namespace {

// As many as a token's ids, wherever they begin, consist of.
int ids_per_vector(ConstTensor ids) {
  for (const int n : {4, 2})
    if (ids.dim(1) % n == 0 && reinterpret_cast<uintptr_t>(ids.data) % (n * sizeof(int32_t)) == 0)
      return n;
  return 1;
}

}  // namespace

void post_counts(const PeerWindow& window, Tensor return_row, ConstTensor ids, PeerRoute route,
                 int64_t num_experts, int64_t max_tokens, int64_t num_tokens, Tensor status,
                 cudaStream_t stream) {
  const PostCountsParams params{view_of(window),
                                return_row.as<int32_t>(),
                                ids.as<int32_t>(),
                                status.as<int32_t>(),
                                num_experts,
                                static_cast<int>(ids.dim(0)),
                                static_cast<int>(ids.dim(1)),
                                ids_per_vector(ids),
                                route,
                                static_cast<int32_t>(max_tokens),
                                static_cast<int32_t>(num_tokens)};
  launch(post_counts_kernel, window.num_ranks, kPostThreads, 0, stream, params);
}

void await_counts(const PeerWindow& window, Tensor shift, Tensor num_rows, int tp_size,
                  Tensor status, cudaStream_t stream) {
  const AwaitCountsParams params{view_of(window), shift.as<int32_t>(), num_rows.as<int32_t>(),
                                 status.as<int32_t>(), tp_size};
  launch(await_counts_kernel, 1, 32, 0, stream, params);
}

void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                Tensor status, cudaStream_t stream) {
  const MeetPeersParams params{view_of(window), status.as<int32_t>(), phase, part, first, num};
  launch(meet_peers_kernel, 1, 32, 0, stream, params);
}

}  // namespace switchyard::cuda
