// src/cuda/peer_exchange.cuh -- await_rows and meet_peers: what ranks tell each other. Bound by the
// latency of a launch and of a store to a peer.
#pragma once

#include "cuda/headers.cuh"
#include "cuda/peer_window.cuh"

namespace switchyard::cuda {

struct AwaitRowsParams {
  WindowView window;
  int32_t* num_rows;  // [1]
  int32_t* status;
  PeerMeet part;
  int32_t max_tokens, num_tokens;  // as told
  int32_t rows;
  int tp_size;
};

// What push_rows found, in whatever order its blocks ran. One warp.
__device__ __forceinline__ void note_bad_id(const WindowView& w, int32_t* status) {
  if (threadIdx.x == 0 && w.control[kControlBadId] != 0) {
    note_status(status, Errc::BadRouting, StatusDetail::IdOutOfRange, w.rank,
                told_value(w.control[kControlBadId]));
    w.control[kControlBadId] = 0;
  }
  __syncwarp();
}

__global__ __launch_bounds__(32) void await_rows_kernel(const __grid_constant__ AwaitRowsParams p) {
  const WindowView& w = p.window;
  begin_waiting(w);
  const uint32_t epoch = w.epoch() + 1;
  if (p.part != PeerMeet::Wait) {
    note_bad_id(w, p.status);
    const int64_t mine = told_at(PeerPhase::Rows, epoch, w.rank, w.num_ranks);
    __threadfence_system();  // and what kernels before this one wrote
    for (int i = threadIdx.x; i < w.num_ranks * kHeaderCounts; i += 32) {
      const int d = i / static_cast<int>(kHeaderCounts), word = i % static_cast<int>(kHeaderCounts);
      const int32_t value = word == kHeaderMaxTokens ? p.max_tokens
                            : word == kHeaderTokens  ? p.num_tokens
                                                     : p.status[word];
      ptx::store_release_sys(w.control_of(d) + mine + word, told_word(epoch, value));
    }
    __syncwarp();  // status is told before it is merged
  }
  if (p.part == PeerMeet::Tell) return;
  bool good = await_peers(w, PeerPhase::Rows, epoch, 0, w.num_ranks, p.status);
  if (good) {
    check_headers_of_warp(p.status, w.headers, w.num_ranks, static_cast<int>(kHeaderCounts),
                          p.tp_size);
    __syncwarp();
    good = is_good(p.status);
  }
  if (threadIdx.x != 0) return;
  p.num_rows[0] = good ? p.rows : 0;
  w.control[kControlEpoch] = epoch;
}

struct MeetPeersParams {
  WindowView window;
  int32_t* status;
  PeerPhase phase;
  PeerMeet part;
  int first, num;
};

__global__ __launch_bounds__(32) void meet_peers_kernel(const __grid_constant__ MeetPeersParams p) {
  const WindowView& w = p.window;
  begin_waiting(w);
  const int lane = threadIdx.x;
  const uint32_t epoch = w.epoch();
  if (p.part != PeerMeet::Wait) {
    const int64_t mine = told_at(p.phase, epoch, w.rank, w.num_ranks);
    __threadfence_system();  // and what kernels before this one wrote
    for (int i = lane; i < p.num * kStatusWords; i += 32) {
      const int d = p.first + i / static_cast<int>(kStatusWords);
      const int word = i % static_cast<int>(kStatusWords);
      ptx::store_release_sys(w.control_of(d) + mine + word, told_word(epoch, p.status[word]));
    }
    __syncwarp();  // status is told before it is merged
  }
  if (p.part == PeerMeet::Tell) return;
  if (await_peers(w, p.phase, epoch, p.first, p.num, p.status))
    merge_statuses(p.status, w.headers, p.num, static_cast<int>(kStatusWords));
}

}  // namespace switchyard::cuda
