// src/base/status.h -- errors that only the device or a peer can know: four words that travel.
#pragma once

#include <cstdint>
#include <string>

#include "switchyard/dispatcher.h"
#include "switchyard/error.h"

namespace switchyard {

// What happened. The values cross ranks and reach kernels; they never change.
enum class StatusDetail : int32_t {
  None = 0,
  IdOutOfRange = 1,       // value: the expert id
  MaskedOverflow = 2,     // value: rows of an expert that did not fit
  PeerArguments = 3,      // forward refused its arguments on that rank
  MaxTokensDiffer = 4,    // value: that rank's max_tokens
  SliceTokensDiffer = 5,  // value: that rank's T, inside one tensor-parallel group
  PeerLost = 6,           // value: see lost_word in base/peer_control.h; 0 when it is not known
  RowsNotGrouped = 7,     // value: the lowest row that breaks the rule of group_rows
};

// i32 [kStatusWords] on the device: code, detail, rank, value.
struct StatusWords {
  int32_t code = 0;
  int32_t detail = 0;
  int32_t rank = 0;
  int32_t value = 0;

  bool good() const { return code == 0; }
};
static_assert(sizeof(StatusWords) == kStatusWords * sizeof(int32_t));

// The first error stays: later ones are often its consequence.
inline void note(StatusWords& status, Errc code, StatusDetail detail, int rank, int64_t value) {
  if (!status.good()) return;
  const int32_t clamped = static_cast<int32_t>(value < INT32_MIN   ? INT32_MIN
                                               : value > INT32_MAX ? INT32_MAX
                                                                   : value);
  status = {static_cast<int32_t>(code), static_cast<int32_t>(detail), rank, clamped};
}

// The message of a status, the same on every rank.
std::string status_message(const StatusWords& status);

}  // namespace switchyard
