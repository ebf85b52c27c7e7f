// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/peer_window.h -- what reaching into a peer's memory means. Words that ranks tell each
// other are atomic, and everything else is ordered by them.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "base/status.h"
#include "cpu/run.h"
#include "plan/index.h"

namespace switchyard::cpu {

inline int64_t* control_of(const PeerWindow& w, int rank) {
  return reinterpret_cast<int64_t*>(w.bases.as<int64_t>()[rank]);
}

inline void store_release(int64_t& word, int64_t value) {
  std::atomic_ref(word).store(value, std::memory_order_release);
}
inline int64_t load_acquire(int64_t& word) {
  return std::atomic_ref(word).load(std::memory_order_acquire);
}

// Tells ranks [first, first + num) the header word(i, to) of this rank in a call's phase.
template <class Word>
void send_header(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
                 const Word& word) {
  const int64_t mine = header_at(phase, epoch, w.rank, w.num_ranks);
  for (int d = first; d < first + num; ++d)
    for (int64_t i = 0; i < header_width(phase); ++i)
      store_release(control_of(w, d)[mine + i],
                    epoch_word(epoch, static_cast<int32_t>(word(i, d))));
}

inline uint32_t epoch_of(const PeerWindow& w) {
  return static_cast<uint32_t>(w.control.as<int64_t>()[kControlEpoch]);
}

// SlotTables::active as ranks are told it.
inline int32_t placement_word(ConstTensor active) {
  return active.present() ? active.as<int32_t>()[0] : 0;
}

inline StatusWords& words_of(Tensor status) {
  return *status.as<StatusWords>();
}

// Ends the window for every rank.
inline void give_up(const PeerWindow& w, int64_t lost, Tensor status) {
  for (int r = 0; r < w.num_ranks; ++r) store_release(control_of(w, r)[kControlLost], lost);
  words_of(status) = {static_cast<int32_t>(Errc::Transport),
                      static_cast<int32_t>(StatusDetail::PeerLost), lost_rank(lost), lost_why(lost),
                      0};
}

// The words of `num` ranks from `first` on, unpacked into headers. False: somebody is lost.
inline bool await(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
                  Tensor status) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::nanoseconds(w.deadline_ns);
  const int64_t width = header_width(phase);
  auto* control = w.control.as<int64_t>();
  const auto lost = [&](int rank) -> int64_t {
    if (const int64_t word = load_acquire(control[kControlLost]); word != 0) return word;
    if (std::atomic_ref(*w.ended).load(std::memory_order_relaxed) != 0)
      return lost_word(kGivenUpByHost, w.rank);
    if (std::chrono::steady_clock::now() > limit) return lost_word(did_not_come(phase), rank);
    return 0;
  };
  if (const int64_t word = load_acquire(control[kControlLost]); word != 0)
    return give_up(w, word, status), false;
  for (int r = first; r < first + num; ++r) {
    int64_t* from = control + header_at(phase, epoch, r, w.num_ranks);
    for (int64_t i = 0; i < width; ++i) {
      int64_t word = load_acquire(from[i]);
      while (!has_come(word, epoch)) {
        if (const int64_t why = lost(r); why != 0) return give_up(w, why, status), false;
        std::this_thread::yield();
        word = load_acquire(from[i]);
      }
      w.headers.as<int32_t>()[(r - first) * width + i] = word_value(word);
    }
  }
  return true;
}

inline Tensor unpacked(const PeerWindow& w, PeerPhase phase, int num) {
  Tensor t = w.headers;
  t.shape = {num, header_width(phase)};
  return t;
}

// What the call's ids had that is out of range.
inline void note_bad_id(const PeerWindow& w, Tensor status) {
  auto& bad = w.control.as<uint64_t>()[kControlBadId];
  if (bad != 0)
    note(words_of(status), Errc::BadRouting, StatusDetail::IdOutOfRange, w.rank,
         static_cast<int32_t>(bad));
  bad = 0;
}

}  // namespace switchyard::cpu
