// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/status.h -- errors that only the device or a peer can know: a few words that travel.
#pragma once

#include <cstdint>
#include <string>

#include "switchyard/dispatcher.h"
#include "switchyard/error.h"

namespace switchyard {

// What happened. The values cross ranks and reach kernels; they never change.
enum class StatusDetail : int32_t {
  None = 0,
  IdOutOfRange = 1,        // value: the expert id
  MaskedOverflow = 2,      // value: rows of an expert that did not fit
  PeerArguments = 3,       // forward refused its arguments on that rank
  MaxTokensDiffer = 4,     // value: that rank's max_tokens
  SliceTokensDiffer = 5,   // value: that rank's T, inside one tensor-parallel group
  PeerLost = 6,            // value: see lost_word in base/peer_control.h; 0 when it is not known
  RowsNotGrouped = 7,      // value: the lowest row that breaks the rule of group_rows
  PlacementsDiffer = 8,    // value: that rank's placement, a number of its contents
  RankMissing = 9,         // value: see did_not_come; calls may go on without that rank
  LeftOut = 10,            // its peers go on without that rank
  ActiveRanksDiffer = 11,  // value: that rank's active_ranks_word
};

// The halves of a value, for host and device.
constexpr int32_t low_half(int64_t value) {
  return static_cast<int32_t>(static_cast<uint64_t>(value));
}
constexpr int32_t high_half(int64_t value) {
  return static_cast<int32_t>(static_cast<uint64_t>(value) >> 32);
}
constexpr int64_t join_halves(int32_t low, int32_t high) {
  return static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32 |
                              static_cast<uint32_t>(low));
}

// i32 [kStatusWords] on the device: code, detail, rank, value (an id may be an i64).
struct StatusWords {
  int32_t code = 0;
  int32_t detail = 0;
  int32_t rank = 0;
  int32_t value = 0;       // the lower half
  int32_t value_high = 0;  // the upper half

  bool good() const { return code == 0; }
  int64_t seen() const { return join_halves(value, value_high); }
};
static_assert(sizeof(StatusWords) == kStatusWords * sizeof(int32_t));

// The first error stays: later ones are often its consequence.
inline void note(StatusWords& status, Errc code, StatusDetail detail, int rank, int64_t value) {
  if (!status.good()) return;
  status = {static_cast<int32_t>(code), static_cast<int32_t>(detail), rank, low_half(value),
            high_half(value)};
}

// The message of a status, the same on every rank.
std::string status_message(const StatusWords& status);

}  // namespace switchyard
