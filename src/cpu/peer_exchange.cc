// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/peer_exchange.cc -- what reaching into a peer's memory means. Words that ranks tell each
// other are atomic, and everything else is ordered by them.
#include "cpu/run.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "base/status.h"
#include "plan/index.h"

namespace switchyard::cpu {
namespace {

int64_t* control_of(const PeerWindow& w, int rank) {
  return reinterpret_cast<int64_t*>(w.bases.as<int64_t>()[rank]);
}

void store_release(int64_t& word, int64_t value) {
  std::atomic_ref(word).store(value, std::memory_order_release);
}
int64_t load_acquire(int64_t& word) {
  return std::atomic_ref(word).load(std::memory_order_acquire);
}

// Tells ranks [first, first + num) the header word(i) of this rank in a call's phase.
template <class Word>
void send_header(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
                 const Word& word) {
  const int64_t mine = header_at(phase, epoch, w.rank, w.num_ranks);
  for (int d = first; d < first + num; ++d)
    for (int64_t i = 0; i < header_width(phase); ++i)
      store_release(control_of(w, d)[mine + i], epoch_word(epoch, static_cast<int32_t>(word(i))));
}

uint32_t epoch_of(const PeerWindow& w) {
  return static_cast<uint32_t>(w.control.as<int64_t>()[kControlEpoch]);
}

int32_t placement_of(const AwaitRows& op) {
  return op.placement.present() ? op.placement.as<int32_t>()[0] : 0;
}

StatusWords& words_of(Tensor status) {
  return *status.as<StatusWords>();
}

// Ends the window for every rank.
void give_up(const PeerWindow& w, int64_t lost, Tensor status) {
  for (int r = 0; r < w.num_ranks; ++r) store_release(control_of(w, r)[kControlLost], lost);
  words_of(status) = {static_cast<int32_t>(Errc::Transport),
                      static_cast<int32_t>(StatusDetail::PeerLost), lost_rank(lost), lost_why(lost),
                      0};
}

// The words of `num` ranks from `first` on, unpacked into headers. False: somebody is lost.
bool await(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
           Tensor status) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::nanoseconds(w.deadline_ns);
  const int64_t width = header_width(phase);
  auto* control = w.control.as<int64_t>();
  const auto lost = [&](int rank) -> int64_t {
    if (const int64_t word = load_acquire(control[kControlLost]); word != 0) return word;
    if (std::atomic_ref(*w.ended).load(std::memory_order_relaxed) != 0)
      return lost_word(kGivenUpByHost, w.rank);
    if (std::chrono::steady_clock::now() > limit)
      return lost_word(static_cast<int32_t>(phase) + 1, rank);
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

Tensor unpacked(const PeerWindow& w, PeerPhase phase, int num) {
  Tensor t = w.headers;
  t.shape = {num, header_width(phase)};
  return t;
}

}  // namespace

template <>
void run(const AwaitRows& op, const Context& context) {
  const int num_ranks = op.window.num_ranks;
  const uint32_t epoch = epoch_of(op.window) + 1;
  if (op.part != PeerMeet::Wait) {
    auto& bad = op.window.control.as<uint64_t>()[kControlBadId];
    if (bad != 0)
      note(words_of(op.status), Errc::BadRouting, StatusDetail::IdOutOfRange, op.window.rank,
           static_cast<int32_t>(bad));
    bad = 0;
    send_header(op.window, PeerPhase::Rows, epoch, 0, num_ranks, [&](int64_t i) -> int64_t {
      return i == kHeaderMaxTokens   ? op.max_tokens
             : i == kHeaderPlacement ? placement_of(op)
             : i == kHeaderTokens    ? op.num_tokens
                                     : op.status.as<int32_t>()[i];
    });
  }
  if (op.part == PeerMeet::Signal) return;
  const bool all_came = await(op.window, PeerPhase::Rows, epoch, 0, num_ranks, op.status);
  op.window.control.as<int64_t>()[kControlEpoch] = epoch;
  if (all_came) run(CheckHeaders{op.status, op.window.headers, op.tp_size}, context);
  op.num_rows.as<int32_t>()[0] = words_of(op.status).good() ? static_cast<int32_t>(op.rows) : 0;
}

template <>
void run(const MeetPeers& op, const Context& context) {
  const uint32_t epoch = epoch_of(op.window);
  if (op.part != PeerMeet::Wait)
    send_header(op.window, op.phase, epoch, op.first, op.num,
                [&](int64_t i) { return op.status.as<int32_t>()[i]; });
  if (op.part == PeerMeet::Signal) return;
  if (await(op.window, op.phase, epoch, op.first, op.num, op.status))
    run(MergeStatus{op.status, unpacked(op.window, op.phase, op.num)}, context);
}

}  // namespace switchyard::cpu
