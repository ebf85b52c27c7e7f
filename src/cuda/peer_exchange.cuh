// src/cuda/peer_exchange.cuh -- post_counts, await_counts and meet_peers: what ranks tell each
// other. Bound by the latency of a launch and of a store to a peer.
#pragma once

#include "cuda/headers.cuh"
#include "cuda/peer_window.cuh"

namespace switchyard::cuda {

inline constexpr int kPostThreads = 1024;
inline constexpr int kPostTokens = 4;  // of a thread in one round

struct PostCountsParams {
  WindowView window;
  int32_t* return_row;  // [T_slice, P]
  const int32_t* ids;   // [T_slice, K]
  int32_t* status;
  int64_t num_experts;
  int num_tokens, top_k;  // of the slice
  int ids_per_vector;     // 1, 2 or 4: divides top_k
  PeerRoute route;
  int32_t max_tokens, all_tokens;  // as told
};

// Token j of this thread in the round that begins with token `first`.
__device__ __forceinline__ int token_of(int first, int j) {
  return first + j * kPostThreads + static_cast<int>(threadIdx.x);
}

template <int kCount>
struct alignas(kCount * sizeof(int32_t)) IdVector {
  int32_t ids[kCount];
};

// gets[j]: one of token j's experts is among the per_rank from first_expert on. bad: an id is none.
// The ids of several tokens are on their way at a time.
template <int kCount>
__device__ __forceinline__ void see_ids(const PostCountsParams& p, int first, int64_t first_expert,
                                        int64_t per_rank, bool (&gets)[kPostTokens], bool& bad) {
  const int num_vectors = p.top_k / kCount;
  const auto* all = reinterpret_cast<const IdVector<kCount>*>(p.ids);
  for (int v = 0; v < num_vectors; ++v) {
    IdVector<kCount> seen[kPostTokens];
#pragma unroll
    for (int j = 0; j < kPostTokens; ++j)
      if (token_of(first, j) < p.num_tokens)
        seen[j] = all[int64_t{token_of(first, j)} * num_vectors + v];
#pragma unroll
    for (int j = 0; j < kPostTokens; ++j)
      for (const int32_t id : seen[j].ids) {
        if (token_of(first, j) >= p.num_tokens) continue;
        bad |= !is_valid_id(id, p.num_experts);
        gets[j] |= id >= first_expert && id < first_expert + per_rank;
      }
  }
}

// Block p numbers the tokens that rank p gets, 4096 at a time, and tells every rank how many they
// are; block 0 tells the rest. Every block reads all ids, so that each knows by itself whether one
// is bad and nothing may be sent: P * T * K * 4 bytes out of L2.
__global__ __launch_bounds__(kPostThreads) void post_counts_kernel(
    const __grid_constant__ PostCountsParams p) {
  // Two, so that one barrier per round is enough.
  __shared__ int warp_counts[2][kPostTokens][kPostThreads / 32];
  wait_for_predecessor();
  allow_successor();
  const WindowView& w = p.window;
  const int to = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t epoch = w.epoch() + 1;
  const bool good_before = is_good(p.status);
  const int64_t per_rank = p.num_experts / w.num_ranks, first_expert = to * per_rank;

  int next = 0;
  bool bad = false;
  for (int first = 0, round = 0; first < p.num_tokens;
       first += kPostTokens * kPostThreads, ++round) {
    bool gets[kPostTokens] = {};
    switch (p.ids_per_vector) {
      case 4: see_ids<4>(p, first, first_expert, per_rank, gets, bad); break;
      case 2: see_ids<2>(p, first, first_expert, per_rank, gets, bad); break;
      default: see_ids<1>(p, first, first_expert, per_rank, gets, bad);
    }
    int(&counts)[kPostTokens][kPostThreads / 32] = warp_counts[round % 2];
    unsigned masks[kPostTokens];
#pragma unroll
    for (int j = 0; j < kPostTokens; ++j) {
      gets[j] |= p.route != PeerRoute::Owners && token_of(first, j) < p.num_tokens;
      masks[j] = __ballot_sync(~0u, gets[j]);
      if (lane == 0) counts[j][warp] = __popc(masks[j]);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kPostTokens; ++j) {
      const int count = counts[j][lane];
      const int before = __reduce_add_sync(~0u, lane < warp ? count : 0);
      if (token_of(first, j) < p.num_tokens)
        p.return_row[int64_t{token_of(first, j)} * w.num_ranks + to] =
            gets[j] ? next + before + __popc(masks[j] & ((1u << lane) - 1)) : kNoRow;
      next += __reduce_add_sync(~0u, count);
    }
  }
  bad = __syncthreads_or(bad);

  // Words of their own, which nothing stands behind: what this rank read and wrote in the call
  // before is done, by kernels that are over.
  const int64_t mine = told_at(PeerPhase::Counts, epoch, w.rank, w.num_ranks);
  const bool sends = good_before && !bad && p.route != PeerRoute::Nobody;
  for (int d = threadIdx.x; d < w.num_ranks; d += kPostThreads)
    ptx::store_relaxed_sys(w.control_of(d) + mine + kHeaderCounts + to,
                           told_word(epoch, sends ? next : 0));
  if (to != 0) return;
  if (bad)
    note_first_bad_id(p.status, p.ids, 0, int64_t{p.num_tokens} * p.top_k, p.num_experts, w.rank);
  __syncthreads();  // one thread noted
  for (int i = threadIdx.x; i < w.num_ranks * kHeaderCounts; i += kPostThreads) {
    const int d = i / static_cast<int>(kHeaderCounts), word = i % static_cast<int>(kHeaderCounts);
    const int32_t value = word == kHeaderMaxTokens ? p.max_tokens
                          : word == kHeaderTokens  ? p.all_tokens
                                                   : p.status[word];
    ptx::store_relaxed_sys(w.control_of(d) + mine + word, told_word(epoch, value));
  }
}

struct AwaitCountsParams {
  WindowView window;
  int32_t* shift;     // [P]
  int32_t* num_rows;  // [1]
  int32_t* status;
  int tp_size;
};

__global__ __launch_bounds__(32) void await_counts_kernel(
    const __grid_constant__ AwaitCountsParams p) {
  const WindowView& w = p.window;
  begin_waiting(w);
  const int lane = threadIdx.x,
            width = static_cast<int>(told_width(PeerPhase::Counts, w.num_ranks));
  const uint32_t epoch = w.epoch() + 1;
  bool good = await_peers(w, PeerPhase::Counts, epoch, 0, w.num_ranks, p.status);
  if (good) {
    check_headers_of_warp(p.status, w.headers, w.num_ranks, width, p.tp_size);
    __syncwarp();
    good = is_good(p.status);
  }
  const int32_t* sent = w.headers + kHeaderCounts;  // [P, P] with a stride of width
  for (int d = lane; d < w.num_ranks; d += 32) {
    int32_t before = 0;
    for (int s = 0; good && s < w.rank; ++s) before += sent[s * width + d];
    p.shift[d] = before;
  }
  int32_t received = 0;
  for (int s = lane; good && s < w.num_ranks; s += 32) received += sent[s * width + w.rank];
  received = __reduce_add_sync(~0u, received);
  if (lane != 0) return;
  p.num_rows[0] = received;
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
