// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/peer_exchange.cc -- meetings of ranks that reach into each other's memory.
#include "cpu/peer_window.h"

namespace switchyard::cpu {

template <>
void run(const AwaitRows& op, const Context& context) {
  const int num_ranks = op.window.num_ranks;
  const uint32_t epoch = epoch_of(op.window) + 1;
  if (op.part != PeerMeet::Wait) {
    note_bad_id(op.window, op.status);
    send_header(op.window, PeerPhase::Rows, epoch, 0, num_ranks, [&](int64_t i, int) -> int64_t {
      return i == kHeaderMaxTokens   ? op.max_tokens
             : i == kHeaderPlacement ? placement_word(op.placement)
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
                [&](int64_t i, int) { return op.status.as<int32_t>()[i]; });
  if (op.part == PeerMeet::Signal) return;
  if (await(op.window, op.phase, epoch, op.first, op.num, op.status))
    run(MergeStatus{op.status, unpacked(op.window, op.phase, op.num)}, context);
  note_missing(op.window, op.phase, op.status);
}

}  // namespace switchyard::cpu
