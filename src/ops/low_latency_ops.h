// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/low_latency_ops.h -- rows there and back between ranks that reach into each other's
// memory, each way in one operation: push, tell, wait. dispatcher/low_latency.cc has the protocol.
#pragma once

#include <numeric>

#include "ops/peer_ops.h"

namespace switchyard {

// Begins the next call. Every source rank has a block of rows on every rank, which its rows fill
// from the first place on: the token that is number n of those with an expert on rank d becomes row
// rank * block + n of dst there, once, with its ids made local. The block's other ids become
// kNoExpert. Then tells every rank what AwaitRows tells, and how many rows came; waits for all of
// them. Ids outside [-1, E) count as no expert; the first is noted. With a status no row moves, and
// none is to come back. Ranks that are not active get nothing and send nothing: slots of their experts
// are as those without one, and are counted.
//
// The part Wait ends what Signal began.
struct DeliverRows {
  static constexpr const char* kName = "deliver_rows";
  PeerWindow window;
  ConstRowParts rows;   // [T, W]
  ConstTensor ids;      // i32 [T, K] global
  ConstTensor weights;  // f32 [T, K]
  int64_t num_experts = 0;
  int64_t block = 0;  // at least T of every rank
  // As told, and compared: the call's bound, tokens, equal inside a tensor-parallel group, and
  // SlotTables::active; absent: none.
  int64_t max_tokens = 0;
  int64_t num_tokens = 0;
  ConstTensor placement{};
  int tp_size = 1;
  Tensor
      dropped;  // i64 [1] += slots of experts whose rank is not active; absent with window.active

  // This rank's own buffers, of which peers have their like at the same offsets.
  RowParts dst_rows;   // [P * block, W]
  Tensor dst_ids;      // i32 [P * block, K] local
  Tensor dst_weights;  // f32 [P * block, K]
  Tensor dst_tokens;   // i32 [P * block] of their source; absent: not wanted

  Tensor sent;      // i32 [P] rows to each rank
  Tensor counts;    // i32 [P] rows that came from each rank; 0 with a status
  Tensor num_rows;  // i32 [1] rows up to the last that came, gaps between blocks included
  // Where what comes back stands, either of: i32 [T, P] row p * block + n of rank p's partial rows,
  // i32 [T, K] row t * K + k of the experts' rows; kNoRow where none comes.
  Tensor return_row;
  Tensor return_slot;
  PeerMeet part = PeerMeet::Both;
  Tensor status;

  Work work(const ReadI32& read) const {
    const std::vector<int32_t> rows_to = read(sent);
    const double all = std::accumulate(rows_to.begin(), rows_to.end(), 0.0);
    const double crossing = all - rows_to[static_cast<size_t>(window.rank)];
    const double tokens = static_cast<double>(rows.num_rows()), row = part_bytes(rows, 1);
    const double with_slots = row + row_bytes(ids, 1) + row_bytes(weights, 1);
    return {tokens * row + all * with_slots, 0, 0, crossing * with_slots};
  }
};

// Received rows' sums of experts to the ranks that their tokens came from, of which each has a block
// here: row n of rank s's block, n < counts[s], becomes
// - partial row rank * block + n of dst there: the sum of its slots in fp32, rounded to bf16; or that
//   row of sums.rows, where it has no row_of_slot
// - or, with tokens, the row of each slot k that has one, as it is: row tokens[..] * K + k of dst.
// Then does what MeetPeers does, in the phase of partial rows. No row moves with a status.
struct ReturnRows {
  static constexpr const char* kName = "return_rows";
  PeerWindow window;
  SlotSums sums;       // row_of_slot i32 [P * block, K]; rows absent: none came
  ConstTensor counts;  // i32 [P]
  int64_t block = 0;
  ConstTensor tokens;  // i32 [P * block]; absent: partial rows
  Tensor dst;          // bf16 [P * block, H], or as sums.rows [T * K, H]
  PeerMeet part = PeerMeet::Both;
  Tensor status;

  bool is_of_slots() const { return tokens.present(); }

  Work work(const ReadI32& read) const {
    if (!sums.rows.present()) return {};
    const auto top_k = sums.row_of_slot.present() ? sums.row_of_slot.dim(1) : 1;
    double terms = 0, sent = 0, crossing = 0;
    const auto count = read(counts);
    for (int s = 0; s < window.num_ranks; ++s) {
      const int64_t num_rows = count[static_cast<size_t>(s)];
      const double slots = sums.row_of_slot.present()
                               ? filled_slots(read, sums.row_of_slot, {s * block, num_rows})
                               : static_cast<double>(num_rows);
      const double rows = is_of_slots() ? slots : static_cast<double>(num_rows);
      terms += slots, sent += rows;
      if (s != window.rank) crossing += rows;
    }
    const double flops =
        is_of_slots() || top_k == 1 ? 0 : 2 * terms * static_cast<double>(dst.dim(1));
    return {row_bytes(sums.rows, terms) + row_bytes(dst, sent), flops, 0, row_bytes(dst, crossing)};
  }
};

// dst[t, k] = return_row[t, owner of ids[t, k]] * K + k, kNoRow where no rank owns it: where the rows
// of experts stand that came back K to each row of a token, one for each slot.
struct PlaceSlots {
  static constexpr const char* kName = "place_slots";
  Tensor dst;              // i32 [T, K]
  ConstTensor return_row;  // i32 [T, P]
  ConstTensor ids;         // i32 [T, K] global
  int64_t num_experts = 0;

  Work work(const ReadI32&) const { return {2 * tensor_bytes(ids) + tensor_bytes(return_row)}; }
};

using LowLatencyOps = OpList<DeliverRows, ReturnRows, PlaceSlots>;

}  // namespace switchyard
