// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/error.cc
#include "switchyard/error.h"

#include <charconv>
#include <exception>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "base/as_error.h"
#include "base/peer_control.h"
#include "base/require.h"
#include "base/status.h"
#include "switchyard/tensor.h"

namespace switchyard {

namespace {

template <class... Format>
void append_digits(std::string& text, const Format&... number) {
  char digits[32];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, number...).ptr);
}

// Made before memory can run out.
const Error kNoMemory(Errc::Unsupported,
                      "memory: an allocation failed, and one for the message of it. Free some.");

}  // namespace

void append_number(std::string& text, int64_t value) {
  append_digits(text, value);
}
void append_number(std::string& text, uint64_t value) {
  append_digits(text, value);
}
void append_number(std::string& text, double value, int digits) {
  append_digits(text, value, std::chars_format::general, digits);
}

void throw_as_error(const char* operation) {
  try {
    try {
      throw;
    } catch (const std::bad_alloc&) {
      throw Error(Errc::Unsupported,
                  cat(operation,
                      ": memory=none left, an allocation failed. Free some, or use a "
                      "smaller layer or more ranks."));
    } catch (const std::length_error& e) {
      throw Error(Errc::Unsupported, cat(operation, ": memory, a size is beyond any (", e.what(),
                                         "). Use smaller sizes."));
    } catch (const std::system_error& e) {
      throw Error(Errc::Unsupported, cat(operation, ": the system refused (", e.what(),
                                         "). Raise its limits of threads, files or memory."));
    } catch (const std::exception& e) {
      throw Error(Errc::Unsupported, cat(operation, ": ", e.what(), "."));
    }
  } catch (const std::bad_alloc&) {
    throw kNoMemory;
  }
}

const char* errc_name(Errc code) noexcept {
  switch (code) {
    case Errc::ShapeMismatch: return "ShapeMismatch";
    case Errc::Misaligned: return "Misaligned";
    case Errc::Unsupported: return "Unsupported";
    case Errc::BadFile: return "BadFile";
    case Errc::Cuda: return "Cuda";
    case Errc::Transport: return "Transport";
    case Errc::BadRouting: return "BadRouting";
    case Errc::BadState: return "BadState";
  }
  return "unknown";
}

std::string Error::one_line(std::string message) {
  constexpr size_t kMaxBytes = 2000;
  constexpr std::string_view kCut = "...";
  if (message.size() > kMaxBytes) message.replace(kMaxBytes - kCut.size(), std::string::npos, kCut);
  for (char& c : message)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  return message;
}

const char* dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::Bf16: return "bf16";
    case DType::F16: return "f16";
    case DType::F32: return "f32";
    case DType::F64: return "f64";
    case DType::I32: return "i32";
    case DType::I64: return "i64";
    case DType::F8E4m3: return "f8_e4m3";
  }
  return "unknown";
}

const char* device_name(DeviceKind device) noexcept {
  return device == DeviceKind::Cpu ? "cpu" : "cuda";
}

namespace {

// What did not come from a rank, by did_not_come; empty if that is not known.
std::string what_did_not_come(int32_t why, const std::string& rank) {
  constexpr std::string_view kWhat[] = {"dispatch: rows of ", "combine: partial rows of ",
                                        "combine: the slice of "};
  return why < 1 || why > static_cast<int32_t>(std::size(kWhat)) ? "" : cat(kWhat[why - 1], rank);
}

std::string peer_lost_message(int32_t why, const std::string& rank) {
  if (why == kGivenUpByHost)
    return cat("forward: the communicator was ended while ", rank,
               " waited for its peers. Make a new communicator and layer.");
  const std::string what = what_did_not_come(why, rank);
  if (what.empty()) return cat("forward: ", rank, " is lost. Make a new communicator and layer.");
  return cat(what,
             " did not come within the deadline of the communicator. Look at that rank, then make "
             "a new communicator and layer.");
}

}  // namespace

std::string status_message(const StatusWords& status) {
  const auto rank = cat("rank ", status.rank);
  switch (static_cast<StatusDetail>(status.detail)) {
    case StatusDetail::IdOutOfRange:
      if (status.seen() == INT32_MIN)  // what a gate gives for a token that is not in its table
        return cat("forward: expert id=", status.seen(), " on ", rank,
                   ", of a gate that chooses by token id: a token is outside its vocabulary. Check "
                   "token_ids, or the ids that were given.");
      return cat("forward: expert id=", status.seen(), " on ", rank,
                 ", ids are -1 (no expert) or in [0, E). Check the gate that made them.");
    case StatusDetail::MaskedOverflow:
      return cat("forward: rows of one expert=", status.seen(), " on ", rank,
                 ", more than the masked capacity; a token names an expert twice. Set "
                 "allow_repeated_experts, or use the contiguous layout.");
    case StatusDetail::PeerArguments:
      return cat("forward: ", rank, " refused its arguments (",
                 errc_name(static_cast<Errc>(status.code)), "). See the error thrown there.");
    case StatusDetail::MaxTokensDiffer:
      return cat("forward: max_tokens=", status.seen(), " on ", rank,
                 ", must be equal on every rank. Pass the step's maximum everywhere.");
    case StatusDetail::SliceTokensDiffer:
      return cat("forward: tokens=", status.seen(), " on ", rank,
                 ", ranks of one tensor-parallel group hold the same tokens. Check tp_size.");
    case StatusDetail::PlacementsDiffer:
      return cat("forward: placement=", status.seen(), " on ", rank,
                 ", differs from that of rank 0, ids would go to weights that are elsewhere. Call "
                 "set_placement with the same table on every rank, between the same two calls.");
    case StatusDetail::PeerLost: return peer_lost_message(status.value, rank);
    case StatusDetail::RankMissing:
      return cat(what_did_not_come(status.value, rank),
                 " did not come within lost_rank_timeout. Make sure that it has ended, then call "
                 "set_active_ranks without it on every other rank.");
    case StatusDetail::LeftOut:
      return cat("forward: ", rank,
                 " came too late, its peers go on without it. Make a new communicator and layer.");
    case StatusDetail::ActiveRanksDiffer:
      return cat("forward: active_ranks=", status.seen(), " (a bit each) on ", rank,
                 ", differ from those of its peers. Call set_active_ranks with the same ranks on "
                 "each of them, between the same two calls.");
    case StatusDetail::RowsNotGrouped:
      return cat("group_rows: row=", status.seen(), " on ", rank,
                 ", is neither -1 (padding) nor in [0, E), or resumes an expert whose rows had "
                 "ended. Put the rows of each expert one after the other.");
    case StatusDetail::None: break;
  }
  return cat("forward: status code ", status.code, " on ", rank, ".");
}

}  // namespace switchyard
