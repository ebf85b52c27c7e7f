// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/peer_window.h -- what reaching into a peer's memory means. Words that ranks tell each
// other are atomic, and everything else is ordered by them.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
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

// ---- ranks that calls go on without (PeerWindow::active)

inline std::atomic_ref<uint64_t> missing_of(const PeerWindow& w, int rank) {
  return std::atomic_ref(reinterpret_cast<uint64_t*>(control_of(w, rank))[kControlMissing]);
}

// Those of the active ranks that somebody waited for in vain.
inline uint64_t missing_ranks(const PeerWindow& w) {
  if (!w.active.present()) return 0;
  return *w.active.as<uint64_t>() & missing_of(w, w.rank).load(std::memory_order_acquire);
}

inline bool is_active(const PeerWindow& w, int rank) {
  return !w.active.present() || has_rank(*w.active.as<uint64_t>(), rank);
}

// As ranks are told it.
inline int32_t active_word(const PeerWindow& w) {
  return w.active.present() ? active_ranks_word(*w.active.as<uint64_t>()) : 0;
}

// Whether this rank tells that one, and waits for it. One that its peers miss waits for none.
inline bool expects(const PeerWindow& w, int rank) {
  const uint64_t missing = missing_ranks(w);
  return is_active(w, rank) &&
         (missing == 0 || (!has_rank(missing, rank) && !has_rank(missing, w.rank)));
}

// Nobody waits for the rank any more, and it learns that.
inline void miss(const PeerWindow& w, int rank) {
  for (int r = 0; r < w.num_ranks; ++r)
    if (is_active(w, r)) missing_of(w, r).fetch_or(rank_bit(rank), std::memory_order_acq_rel);
}

inline void note_missing(const PeerWindow& w, PeerPhase phase, Tensor status) {
  const uint64_t missing = missing_ranks(w);
  if (missing == 0) return;
  w.control.as<uint64_t>()[kControlNoted] = missing;
  auto& words = *status.as<StatusWords>();
  if (has_rank(missing, w.rank))
    note(words, Errc::Transport, StatusDetail::LeftOut, w.rank, 0);
  else
    note(words, Errc::Transport, StatusDetail::RankMissing, std::countr_zero(missing),
         did_not_come(phase));
}

// Tells ranks [first, first + num) the header word(i, to) of this rank in a call's phase.
template <class Word>
void send_header(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
                 const Word& word) {
  const int64_t mine = header_at(phase, epoch, w.rank, w.num_ranks);
  for (int d = first; d < first + num; ++d)
    for (int64_t i = 0; i < header_width(phase); ++i)
      if (expects(w, d))
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

// Headers of ranks that nobody waits for become that of this rank, without rows.
inline void fill_headers(const PeerWindow& w, PeerPhase phase) {
  const int64_t width = header_width(phase);
  auto* headers = w.headers.as<int32_t>();
  const int32_t* own = headers + w.rank * width;
  if (!expects(w, w.rank)) std::fill_n(headers, w.num_ranks * width, 0);
  for (int r = 0; r < w.num_ranks; ++r) {
    if (expects(w, r)) continue;
    std::copy_n(own, width, headers + r * width);
    if (phase == PeerPhase::CountedRows) headers[r * width + kHeaderRows] = 0;
  }
}

// How long a rank has given no sign of itself to this one, which waits for it.
class Silence {
 public:
  Silence(const PeerWindow& w, int rank)
      : window_(w),
        heard_(w.control.as<int64_t>()[heartbeat_at(rank, w.num_ranks)]),
        last_(load_acquire(heard_)) {}

  // To be asked again and again; tells the others that this rank is there.
  bool is_too_long() {
    beat();
    const auto now = Clock::now();
    if (const int64_t word = load_acquire(heard_); word != last_) last_ = word, since_ = now;
    const std::chrono::nanoseconds limit(window_.deadline_ns);
    return now - since_ > limit || (now - begin_) / window_.num_ranks > limit;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void beat() const {
    for (int r = 0; r < window_.num_ranks; ++r)
      if (expects(window_, r))
        std::atomic_ref(control_of(window_, r)[heartbeat_at(window_.rank, window_.num_ranks)])
            .fetch_add(1, std::memory_order_relaxed);
  }

  const PeerWindow& window_;
  int64_t& heard_;
  int64_t last_;
  Clock::time_point begin_ = Clock::now(), since_ = begin_;
};

// As await, of a window that outlives ranks: one that is silent for too long is missing.
inline void await_active(const PeerWindow& w, PeerPhase phase, uint32_t epoch) {
  const int64_t width = header_width(phase);
  for (int r = 0; r < w.num_ranks; ++r) {
    int64_t* from = w.control.as<int64_t>() + header_at(phase, epoch, r, w.num_ranks);
    Silence silence(w, r);
    for (int64_t i = 0; i < width; ++i) {
      while (expects(w, r) && !has_come(load_acquire(from[i]), epoch))
        silence.is_too_long() ? miss(w, r) : std::this_thread::yield();
      w.headers.as<int32_t>()[r * width + i] = word_value(load_acquire(from[i]));
    }
  }
  fill_headers(w, phase);
}

// The words of `num` ranks from `first` on, unpacked into headers. False: somebody is lost, and the
// window is over. Of one that outlives ranks note_missing says afterwards who is not there.
inline bool await(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
                  Tensor status) {
  if (w.active.present()) return await_active(w, phase, epoch), true;
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
