// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/peer_exchange.cuh -- await_rows and meet_peers: what ranks tell each other. Bound by the
// latency of a launch and of a store to a peer.
#pragma once

#include "cuda/peer_meeting.cuh"

namespace switchyard::cuda {

struct AwaitRowsParams {
  WindowView window;
  int32_t* num_rows;  // [1]
  int32_t* status;
  const int32_t* active;  // SlotTables::active or null
  PeerMeet part;
  int32_t max_tokens, num_tokens;  // as told
  int32_t rows;
  int tp_size;
};

__global__ __launch_bounds__(32) void await_rows_kernel(const __grid_constant__ AwaitRowsParams p) {
  const WindowView& w = p.window;
  begin_waiting(w);
  const uint32_t epoch = w.epoch() + 1;
  const int32_t placement = p.active != nullptr ? p.active[0] : 0;
  if (p.part != PeerMeet::Wait) {
    note_bad_id(w, p.status);
    send_header(w, PeerPhase::Rows, epoch, 0, w.num_ranks, [&](int word, int) {
      return word == kHeaderMaxTokens   ? p.max_tokens
             : word == kHeaderPlacement ? placement
             : word == kHeaderTokens    ? p.num_tokens
                                        : p.status[word];
    });
  }
  if (p.part == PeerMeet::Signal) return;
  const Came came = await_peers(
      w, PeerPhase::Rows, epoch, 0, w.num_ranks, p.status, [&](int word, int32_t value) {
        return word == 0                  ? value == 0
               : word == kHeaderMaxTokens ? value == p.max_tokens
               : word == kHeaderPlacement
                   ? same_placement(value, placement)
                   : p.tp_size == 1 || word != kHeaderTokens || value == p.num_tokens;
      });
  bool good = came == Came::AllAgree;
  if (came == Came::All) {
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
  meet_of_warp(w, p.phase, p.part, p.first, p.num, p.status);
}

}  // namespace switchyard::cuda
