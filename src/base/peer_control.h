// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/peer_control.h -- the words at the head of a window, where ranks tell each other things:
// what a dispatch begins with, and who is lost. Arithmetic that host and device share.
#pragma once

#include <cstdint>

#include "switchyard/dispatcher.h"

namespace switchyard {

// Header of a dispatch: what every rank tells every other before rows move.
inline constexpr int64_t kHeaderMaxTokens = kStatusWords;  // the call's bound
// SlotTables::active. Without one kernels say 0, and messages the bound again, to save a launch.
inline constexpr int64_t kHeaderPlacement = kStatusWords + 1;
inline constexpr int64_t kHeaderTokens = kStatusWords + 2;  // T, compared inside a TP group
inline constexpr int64_t kHeaderCounts = kStatusWords + 3;  // normal by messages: rows to each rank
inline constexpr int64_t kHeaderRows =
    kStatusWords + 3;  // low latency: rows to the rank it is told
inline constexpr int64_t kHeaderActive = kStatusWords + 4;  // low latency: active_ranks_word

// Whether two words of SlotTables::active are of the same contents. Which of its two tables a rank
// uses is its own.
constexpr bool same_placement(int32_t a, int32_t b) {
  return (a | 1) == (b | 1);
}

// What ranks wait for, in the order of a call.
enum class PeerPhase : int32_t {
  Rows,         // a header; rows were pushed into this rank's window, or may be fetched
  Partials,     // partial rows may be pulled or have come, and the rows of this call were read
  Slices,       // output rows of a tensor-parallel slice may be pulled
  CountedRows,  // as Rows, by low latency: and how many were pushed, among which ranks
};

// Words are i64. Those that peers tell hold the epoch of the call in the upper half and a value in
// the lower one: each arrives as a whole, so no flag has to follow. Epochs only grow.
inline constexpr int64_t kControlEpoch = 0;  // of the last call whose rows this rank awaited
inline constexpr int64_t kControlLost = 1;   // 0, or a lost_word: the window is over
inline constexpr int64_t kControlBadId = 2;  // 0, or the largest bad_id_word of the call at hand
inline constexpr int64_t kControlArrived =
    3;  // CUDA: blocks of a kernel that are done; 0 between kernels
// Of a window that outlives ranks (PeerWindow::active): those that somebody waited for in vain, a bit
// each. Peers set bits, too; none is ever cleared.
inline constexpr int64_t kControlMissing = 4;
inline constexpr int64_t kControlNoted = 5;     // of these, what this rank's last error noted
inline constexpr int64_t kControlHeaders = 16;  // from here on

constexpr int64_t header_width(PeerPhase phase) {
  if (phase == PeerPhase::CountedRows) return kHeaderActive + 1;
  return phase == PeerPhase::Rows ? kHeaderCounts : kStatusWords;
}

// The first word that rank `from` tells in a call's phase. Two sets by parity: a rank is never two
// calls ahead of a peer that it waits for in every call, so what it tells overwrites nothing
// unread.
constexpr int64_t header_at(PeerPhase phase, uint32_t epoch, int64_t from, int64_t num_ranks) {
  const int64_t width = header_width(phase), set = (epoch & 1) * num_ranks + from;
  if (phase == PeerPhase::Rows) return kControlHeaders + set * width;
  const int64_t after_rows = 2 * num_ranks * header_width(PeerPhase::Rows);
  const int64_t meeting = static_cast<int64_t>(phase) - 1;
  return kControlHeaders + after_rows + meeting * 2 * num_ranks * kStatusWords + set * width;
}

// Of a window that outlives ranks: the word that rank `from` changes now and then while it waits. So it
// is there, though it does not come yet: it may wait for one that is not, and comes after that.
constexpr int64_t heartbeat_at(int64_t from, int64_t num_ranks) {
  return header_at(PeerPhase::CountedRows, 1, num_ranks, num_ranks) + from;
}

constexpr int64_t control_words(int64_t num_ranks) {
  return heartbeat_at(num_ranks, num_ranks);
}

constexpr int64_t epoch_word(uint32_t epoch, int32_t value) {
  return static_cast<int64_t>(uint64_t{epoch} << 32 | static_cast<uint32_t>(value));
}
constexpr int32_t word_value(int64_t word) {
  return static_cast<int32_t>(word);
}
// Whether a word is of this call, or of a later one (somebody runs an operation by itself, again).
constexpr bool has_come(int64_t word, uint32_t epoch) {
  return static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint64_t>(word) >> 32) - epoch) >=
         0;
}

// An id outside [-1, E) at an index of ids: that at the lowest index has the largest word.
constexpr uint64_t bad_id_word(int64_t index, int32_t id) {
  return (UINT32_MAX - static_cast<uint64_t>(index)) << 32 | static_cast<uint32_t>(id);
}

// ---- sets of ranks, a bit each

inline constexpr int kMaxRankBits = 64;

constexpr uint64_t rank_bit(int rank) {
  return uint64_t{1} << rank;
}
constexpr bool has_rank(uint64_t ranks, int rank) {
  return (ranks >> rank & 1) != 0;
}
constexpr uint64_t first_ranks(int num_ranks) {
  return num_ranks >= kMaxRankBits ? ~uint64_t{0} : rank_bit(num_ranks) - 1;
}
// Of up to 32 ranks the set itself.
constexpr int32_t active_ranks_word(uint64_t ranks) {
  return static_cast<int32_t>(static_cast<uint32_t>(ranks) ^
                              static_cast<uint32_t>(ranks >> 32) * 0x9e3779b1u);
}

// Why a window is over; its lower half is the value of StatusDetail::PeerLost.
inline constexpr int32_t kGivenUpByHost = 4;
// That a rank did not come to a phase.
constexpr int32_t did_not_come(PeerPhase phase) {
  return 1 + static_cast<int32_t>(phase == PeerPhase::CountedRows ? PeerPhase::Rows : phase);
}
constexpr int64_t lost_word(int32_t why, int32_t rank) {
  return epoch_word(static_cast<uint32_t>(rank), why);
}
constexpr int32_t lost_why(int64_t word) {
  return word_value(word);
}
constexpr int32_t lost_rank(int64_t word) {
  return static_cast<int32_t>(static_cast<uint64_t>(word) >> 32);
}

}  // namespace switchyard
