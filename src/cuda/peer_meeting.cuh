// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/peer_meeting.cuh -- meetings of one warp, for kernels that do nothing else and for the
// last block of those that push.
#pragma once

#include "cuda/headers.cuh"
#include "cuda/peer_window.cuh"

namespace switchyard::cuda {

// What the blocks that pushed found, in whatever order they ran. One warp.
__device__ __forceinline__ void note_bad_id(const WindowView& w, int32_t* status) {
  if (threadIdx.x == 0 && w.control[kControlBadId] != 0) {
    note_status(status, Errc::BadRouting, StatusDetail::IdOutOfRange, w.rank,
                word_value(w.control[kControlBadId]));
    w.control[kControlBadId] = 0;
  }
  __syncwarp();
}

// What meet_peers does.
__device__ __forceinline__ void meet_of_warp(const WindowView& w, PeerPhase phase, PeerMeet part,
                                             int first, int num, int32_t* status) {
  const uint32_t epoch = w.epoch();
  if (part != PeerMeet::Wait)
    send_header(w, phase, epoch, first, num, [&](int word, int) { return status[word]; });
  if (part == PeerMeet::Signal) return;
  const auto is_no_error = [](int word, int32_t value) { return word != 0 || value == 0; };
  if (await_peers(w, phase, epoch, first, num, status, is_no_error) != Came::All) return;
  merge_statuses(status, w.headers, num, static_cast<int>(kStatusWords));
  __syncwarp();
  note_missing(w, phase, status);
}

// Whether this block is the last of its kernel to come here: what every other one wrote is then
// visible, and may be told. Nothing else depends on the order in which blocks run. A whole block.
__device__ __forceinline__ bool is_last_block(const WindowView& w) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence_system();
    auto* arrived = reinterpret_cast<unsigned long long*>(w.control + kControlArrived);
    is_last =
        atomicAdd(arrived, 1ull) + 1 == static_cast<unsigned long long>(gridDim.x) * gridDim.y;
    if (is_last) *arrived = 0;
    __threadfence_system();
  }
  __syncthreads();
  return is_last;
}

}  // namespace switchyard::cuda
