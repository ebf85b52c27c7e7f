// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/peer_ops.h -- ranks that reach into each other's memory; dispatcher/peer.cc has the
// protocol.
//
// A rank that does not come within the deadline, or a peer or host that gave up, is noted as
// Transport, PeerLost, and ends the window for every rank.
#pragma once

#include "base/peer_control.h"
#include "ops/expert_ops.h"
#include "plan/row_layout.h"

namespace switchyard {

// Memory of every rank that is cut alike: what is at an offset in this rank's window is at the same
// offset in every other one. It begins with the words of base/peer_control.h.
struct PeerWindow {
  int rank = 0;
  int num_ranks = 1;
  ConstTensor bases;  // i64 [P], on the device: the address of every rank's window, seen from here
  Tensor control;     // i64 [control_words(P)]: this rank's window begins here
  Tensor headers;     // i32 [P, header_width(Rows)] what the ranks sent last, unpacked
  int32_t* ended = nullptr;    // set once the host gave up; the device reads it
  int64_t deadline_ns = 0;     // of one wait
  int max_blocks = 0;          // CUDA: of the kernels that move rows; 0: chosen
  bool shares_device = false;  // with another rank, whose kernels need room while this one waits
  // i64 [1] the ranks that calls have, a bit each, this one among them: one of them that is not there
  // in time is missing (kControlMissing), which is an error of each call until it is no longer active,
  // and no more. Absent: calls have all ranks, and one that is lost ends the window.
  ConstTensor active{};

  PeerBases memory() const { return {bases, control.data, rank}; }
};

// Of so many rows, all their parts.
inline double part_bytes(const ConstRowParts& rows, double num_rows) {
  double bytes = 0;
  for (const ConstTensor& part : rows) bytes += row_bytes(part, num_rows);
  return bytes;
}

// Which ranks get the row of a token.
enum class PeerRoute : int32_t {
  Owners,  // those that own one of its experts
  Everyone,
  Offered,  // none yet: it is in this rank's window, where owners fetch it
  Nobody,   // all have it already
};

// The part of a meeting that runs: both, unless the host orders them.
enum class PeerMeet : int32_t { Both, Signal, Wait };

// Rows on their way to the ranks that own their experts. Every source rank has a block of rows on
// every rank, token after token, so that no rank has to know how many come from others: token t
// becomes row rank * block + t (Nobody: t) of dst on every rank. Its ids there are local (kNoExpert
// for experts of others, and for the block's rows past T). The row itself goes where the route
// says. Rows that do not come are gaps, without an expert. Ids outside [-1, E) count as no expert,
// and AwaitRows notes the first. Nothing at all with a status.
struct PushRows {
  static constexpr const char* kName = "push_rows";
  PeerWindow window;
  ConstRowParts rows;   // [T, W]; not read with Nobody. Offered: may be in dst_rows
  ConstTensor ids;      // i32 [T, K] global
  ConstTensor weights;  // f32 [T, K]; not read with Nobody
  int64_t num_experts = 0;
  int64_t block = 0;  // at least T of every rank; with Nobody all ranks' tokens are one block
  PeerRoute route = PeerRoute::Owners;

  // This rank's own buffers, of which peers have their like at the same offsets.
  RowParts dst_rows;   // [P * block, W]; Offered: [block, W]
  Tensor dst_ids;      // i32 [P * block, K] local; Nobody: [block, K]
  Tensor dst_weights;  // f32 [P * block, K]
  // i32 [T, P] the row of token t on rank p, kNoRow where p owns none of its experts
  Tensor return_row;
  ConstTensor status;

  bool is_in_place() const {
    return route == PeerRoute::Offered && rows[0].data == dst_rows[0].data;
  }

  // Ids and weights go to every rank, and rows where the route says.
  Work work(const ReadI32& read) const {
    if (route == PeerRoute::Nobody) return {2 * tensor_bytes(ids) + tensor_bytes(return_row)};
    const double tokens = static_cast<double>(rows.num_rows()), peers = window.num_ranks - 1;
    double sent = 0, crossing = 0;
    if (route == PeerRoute::Everyone) sent = tokens * window.num_ranks, crossing = tokens * peers;
    if (route == PeerRoute::Offered) sent = is_in_place() ? 0 : tokens;
    if (route == PeerRoute::Owners) {
      sent = filled_slots(read, return_row, {0, return_row.dim(0)});
      crossing = rows_of_others(read, return_row, window.rank);
    }
    const double row = part_bytes(rows, 1);
    const double slots = tensor_bytes(ids) + tensor_bytes(weights);
    const double read_bytes = is_in_place() ? 0 : tokens * row;
    return {read_bytes + sent * row + slots * (1 + window.num_ranks), 0, 0,
            crossing * row + slots * peers};
  }
};

// Begins the next call, whose epoch is that of the last one + 1: sends every rank status,
// max_tokens, num_tokens and its placement, and that what was enqueued before has happened; waits
// for all of them. status is as CheckHeaders leaves it. The part Wait ends what Signal began.
struct AwaitRows {
  static constexpr const char* kName = "await_rows";
  PeerWindow window;
  int64_t max_tokens = 0;   // the call's bound
  int64_t num_tokens = 0;   // T, equal inside a tensor-parallel group
  ConstTensor placement{};  // SlotTables::active; absent: none
  int tp_size = 1;
  Tensor num_rows;  // i32 [1] <- rows, or 0 with a status
  int64_t rows = 0;
  PeerMeet part = PeerMeet::Both;
  Tensor status;

  Work work(const ReadI32&) const { return {tensor_bytes(window.headers)}; }
};

// Tells ranks [first, first + num) that this one has come to `phase` of the call, with its status,
// and waits for all of them that are active; status is then that of the lowest with an error. What
// was enqueued before is visible to every rank that waited.
struct MeetPeers {
  static constexpr const char* kName = "meet_peers";
  PeerWindow window;
  PeerPhase phase = PeerPhase::Partials;
  PeerMeet part = PeerMeet::Both;
  int first = 0;
  int num = 0;
  Tensor status;

  Work work(const ReadI32&) const { return {tensor_bytes(status) * num}; }
};

// dst[t, :] = row t % C of `slice` on rank first + t / C, with C = ceil(T / num). Nothing is read
// with a status.
struct PullSlices {
  static constexpr const char* kName = "pull_slices";
  PeerWindow window;
  Tensor dst;
  ConstTensor slice;
  int first = 0;
  int num = 0;
  ConstTensor status;

  Work work(const ReadI32&) const { return {2 * tensor_bytes(dst)}; }
};

using PeerOps = OpList<PushRows, AwaitRows, MeetPeers, PullSlices>;

}  // namespace switchyard
