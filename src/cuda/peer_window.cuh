// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/peer_window.cuh -- a window as kernels see it, and the one way to wait.
//
// Only one warp of a kernel waits: of those that do nothing else, and of the last block of those that
// push, when all others are gone. It holds at most a block's share of one multiprocessor, so even when
// all ranks share a device their kernels find room. There such a kernel lets no successor start before
// the wait is over, either: its blocks would take the room of whoever is waited for.
#pragma once

#include "cuda/launch.h"
#include "cuda/ptx/ld_st_sys.cuh"
#include "cuda/status.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

struct PeerView {
  const int64_t* bases;  // [P]
  const void* here;      // bases[rank]
  int rank, num_ranks;

  // Where `mine`, in this rank's memory, is in the peer's.
  template <class T>
  __device__ __forceinline__ T* at_peer(int peer, T* mine) const {
    return reinterpret_cast<T*>(
        bases[peer] + (reinterpret_cast<int64_t>(mine) - reinterpret_cast<int64_t>(here)));
  }
};

inline PeerView view_of(const PeerBases& p) {
  return {p.bases.as<int64_t>(), p.here, p.rank, static_cast<int>(p.bases.dim(0))};
}

struct WindowView : PeerView {
  int64_t* control;  // this rank's window begins here
  int32_t* headers;  // [P, W]
  const int32_t* ended;
  int64_t deadline_ns;
  bool shares_device;
  const uint64_t* active;  // PeerWindow::active or null

  __device__ __forceinline__ int64_t* control_of(int peer) const {
    return reinterpret_cast<int64_t*>(bases[peer]);
  }
  __device__ __forceinline__ uint32_t epoch() const {
    return static_cast<uint32_t>(control[kControlEpoch]);
  }
  __device__ __forceinline__ bool is_active(int peer) const {
    return active == nullptr || has_rank(*active, peer);
  }
  // Those of the active ranks that somebody waited for in vain.
  __device__ __forceinline__ uint64_t missing_ranks() const {
    if (active == nullptr) return 0;
    return *active & static_cast<uint64_t>(ptx::ld_acquire_sys(control + kControlMissing));
  }
  // Whether this rank tells that one, and waits for it. One that its peers miss waits for none.
  __device__ __forceinline__ bool expects(int peer, uint64_t missing) const {
    return is_active(peer) &&
           (missing == 0 || (!has_rank(missing, peer) && !has_rank(missing, rank)));
  }
};

inline WindowView view_of(const PeerWindow& w) {
  return {view_of(w.memory()),
          w.control.as<int64_t>(),
          w.headers.as<int32_t>(),
          w.ended,
          w.deadline_ns,
          w.shares_device,
          w.active.present() ? w.active.as<uint64_t>() : nullptr};
}

// At the head of a kernel that waits.
__device__ __forceinline__ void begin_waiting(const WindowView& w) {
  if (!w.shares_device) allow_successor();
  wait_for_predecessor();
}

// Ends the window for every rank. One warp.
__device__ __forceinline__ void give_up(const WindowView& w, int64_t lost, int32_t* status) {
  const int lane = threadIdx.x;
  for (int r = lane; r < w.num_ranks; r += 32)
    ptx::st_release_sys(w.control_of(r) + kControlLost, lost);
  if (lane == 0)
    write_status(status, Errc::Transport, StatusDetail::PeerLost, lost_rank(lost), lost_why(lost));
}

// Looked at between polls, by one lane: 0, or why to go on no longer. `rank` has not come.
__device__ __forceinline__ int64_t lost_now(const WindowView& w, PeerPhase phase, int rank,
                                            uint64_t start) {
  if (const int64_t word = ptx::ld_acquire_sys(w.control + kControlLost); word != 0) return word;
  if (ptx::ld_relaxed_sys(w.ended) != 0) return lost_word(kGivenUpByHost, w.rank);
  if (ptx::get_sreg_globaltimer() - start > static_cast<uint64_t>(w.deadline_ns))
    return lost_word(did_not_come(phase), rank);
  return 0;
}

// Nobody waits for these ranks any more, and they learn that. One warp, each lane with some of them.
__device__ __forceinline__ void miss(const WindowView& w, uint64_t ranks) {
  const uint64_t all = uint64_t{__reduce_or_sync(~0u, static_cast<unsigned>(ranks >> 32))} << 32 |
                       __reduce_or_sync(~0u, static_cast<unsigned>(ranks));
  for (int r = static_cast<int>(threadIdx.x); r < w.num_ranks; r += 32)
    if (w.is_active(r))
      atomicOr_system(reinterpret_cast<unsigned long long*>(w.control_of(r) + kControlMissing),
                      all);
  __syncwarp();
}

// Of a window that outlives ranks. One warp.
__device__ __forceinline__ void note_missing(const WindowView& w, PeerPhase phase,
                                             int32_t* status) {
  const uint64_t missing = w.missing_ranks();
  if (missing != 0 && threadIdx.x == 0) {
    w.control[kControlNoted] = static_cast<int64_t>(missing);
    if (has_rank(missing, w.rank))
      note_status(status, Errc::Transport, StatusDetail::LeftOut, w.rank, 0);
    else
      note_status(status, Errc::Transport, StatusDetail::RankMissing,
                  __ffsll(static_cast<long long>(missing)) - 1, did_not_come(phase));
  }
  __syncwarp();
}

// Headers of ranks that nobody waits for become that of this rank, without rows. One warp.
__device__ __forceinline__ void fill_headers(const WindowView& w, PeerPhase phase) {
  const uint64_t missing = w.missing_ranks();
  const int width = static_cast<int>(header_width(phase));
  const bool is_expected = w.expects(w.rank, missing);
  __syncwarp();
  for (int i = static_cast<int>(threadIdx.x); i < w.num_ranks * width; i += 32) {
    if (w.expects(i / width, missing)) continue;
    const bool is_rows = phase == PeerPhase::CountedRows && i % width == kHeaderRows;
    w.headers[i] = is_expected && !is_rows ? w.headers[w.rank * width + i % width] : 0;
  }
  __syncwarp();
}

enum class Came { NotAll, All, AllAgree };

// Tells the ranks that may wait for this one that it is there. One warp.
__device__ __forceinline__ void beat(const WindowView& w, uint64_t now) {
  const uint64_t missing = w.missing_ranks();
  for (int r = static_cast<int>(threadIdx.x); r < w.num_ranks; r += 32)
    if (w.expects(r, missing))
      ptx::st_relaxed_sys(w.control_of(r) + heartbeat_at(w.rank, w.num_ranks),
                          static_cast<int64_t>(now));
}

// As await_peers, of a window that outlives ranks: one that is silent for too long is missing, which
// note_missing says afterwards. Not NotAll. One whole warp.
template <class Agrees>
__device__ __forceinline__ Came await_active(const WindowView& w, PeerPhase phase, uint32_t epoch,
                                             const Agrees& agrees) {
  const int lane = static_cast<int>(threadIdx.x), width = static_cast<int>(header_width(phase));
  const int count = w.num_ranks * width;
  const auto limit = static_cast<uint64_t>(w.deadline_ns);
  const int64_t* words = w.control + header_at(phase, epoch, 0, w.num_ranks);
  bool agree = true;
  const uint64_t start = ptx::get_sreg_globaltimer();
  for (int begin = 0; begin < count; begin += 32) {
    const int i = begin + lane, rank = i < count ? i / width : 0;
    const int64_t* heartbeat = w.control + heartbeat_at(rank, w.num_ranks);
    bool here = i >= count || !w.expects(rank, w.missing_ranks());
    int64_t heard = 0;
    uint64_t since = 0;  // when it was heard
    for (unsigned polls = 1; !__all_sync(~0u, here); ++polls) {
      if (!here) {
        const int64_t word = ptx::ld_acquire_sys(words + i);
        here = has_come(word, epoch);
        if (here) {
          w.headers[i] = word_value(word);
          agree &= agrees(i % width, word_value(word));
        }
      }
      if (polls % 64 != 0) continue;  // what follows takes longer than a poll
      const uint64_t now = ptx::get_sreg_globaltimer();
      beat(w, now);
      if (const int64_t word = ptx::ld_relaxed_sys(heartbeat); since == 0 || word != heard)
        heard = word, since = now;
      const bool is_late = !here && (now - since > limit || (now - start) / w.num_ranks > limit);
      if (__any_sync(~0u, is_late)) miss(w, is_late ? rank_bit(rank) : 0);
      here |= !w.expects(rank, w.missing_ranks());
    }
  }
  fill_headers(w, phase);
  return __all_sync(~0u, agree && w.missing_ranks() == 0) ? Came::AllAgree : Came::All;
}

// Waits for what ranks [first, first + num) tell in `phase` of call `epoch`, and unpacks it into
// headers i32 [num, width]. NotAll: somebody is lost, status says who. AllAgree: agrees(word of a
// header, value) holds for every word, so nobody has to read headers. One whole warp.
template <class Agrees>
__device__ __forceinline__ Came await_peers(const WindowView& w, PeerPhase phase, uint32_t epoch,
                                            int first, int num, int32_t* status,
                                            const Agrees& agrees) {
  if (w.active != nullptr) return await_active(w, phase, epoch, agrees);
  const int lane = threadIdx.x;
  const int64_t width = header_width(phase), count = num * width;
  // The words of consecutive ranks follow each other.
  const int64_t* words = w.control + header_at(phase, epoch, first, w.num_ranks);
  // On its way while the words are looked at.
  int64_t lost = lane == 0 ? ptx::ld_relaxed_sys(w.control + kControlLost) : 0;
  bool agree = true;
  const uint64_t start = ptx::get_sreg_globaltimer();
  for (int64_t begin = 0; begin < count; begin += 32) {
    const int64_t i = begin + lane;
    bool here = i >= count;
    for (unsigned polls = 1;; ++polls) {
      if (!here) {
        const int64_t word = ptx::ld_acquire_sys(words + i);
        here = has_come(word, epoch);
        if (here) {
          w.headers[i] = word_value(word);
          agree &= agrees(static_cast<int>(i % width), word_value(word));
        }
      }
      const unsigned missing = __ballot_sync(~0u, !here);
      if (missing == 0) break;
      if (polls % 64 != 0) continue;  // the host's word is a microsecond away
      const int rank = first + static_cast<int>((begin + __ffs(missing) - 1) / width);
      if (lane == 0 && lost == 0) lost = lost_now(w, phase, rank, start);
      if (__any_sync(~0u, lost != 0)) break;
    }
    if (__any_sync(~0u, lost != 0)) break;
  }
  lost = __shfl_sync(~0u, lost, 0);
  if (lost != 0) give_up(w, lost, status);
  __syncwarp();  // headers and status, written by other lanes
  if (lost != 0) return Came::NotAll;
  return __all_sync(~0u, agree) ? Came::AllAgree : Came::All;
}

// Tells ranks [first, first + num) the header word(i, to), i in [0, width): what it stands for is
// written, by kernels before this one or by blocks that are done. One warp.
template <class Word>
__device__ __forceinline__ void send_header(const WindowView& w, PeerPhase phase, uint32_t epoch,
                                            int first, int num, const Word& word) {
  const int width = static_cast<int>(header_width(phase));
  const int64_t mine = header_at(phase, epoch, w.rank, w.num_ranks);
  const uint64_t missing = w.missing_ranks();
  __threadfence_system();  // of all that is told of; each word alone may then be relaxed
  for (int i = threadIdx.x; i < num * width; i += 32) {
    if (!w.expects(first + i / width, missing)) continue;
    ptx::st_relaxed_sys(w.control_of(first + i / width) + mine + i % width,
                        epoch_word(epoch, word(i % width, first + i / width)));
  }
  __syncwarp();  // status is told before it is merged
}

}  // namespace switchyard::cuda
