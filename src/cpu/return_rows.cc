// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/return_rows.cc
#include <cstring>

#include "cpu/peer_window.h"
#include "cpu/rows.h"

namespace switchyard::cpu {
namespace {

// The rows [first, first + count) that came from rank s, summed, into their block there.
void return_sums(const ReturnRows& op, int s, int64_t first, int64_t count,
                 const Context& context) {
  Tensor dst = op.dst.rows(op.window.rank * op.block, count);
  dst.data = at_peer(op.window.memory(), s, dst.as<std::byte>());
  if (!op.sums.row_of_slot.present())
    return run(Copy{dst, op.sums.rows.rows(first, count)}, context);
  SlotSums sums = op.sums;
  sums.row_of_slot = sums.row_of_slot.rows(first, count);
  if (sums.weights.present()) sums.weights = sums.weights.rows(first, count);
  run(SumRows{.dst = dst, .sums = sums}, context);
}

// The rows of experts for row r, which came from rank s.
void return_slots(const ReturnRows& op, int s, int64_t r) {
  const int64_t top_k = op.sums.row_of_slot.dim(1);
  const int64_t row_bytes = op.dst.dim(1) * dtype_bytes(op.dst.dtype);
  std::byte* dst = at_peer(op.window.memory(), s, op.dst.as<std::byte>());
  for (int64_t k = 0; k < top_k; ++k) {
    const int32_t row = op.sums.row_of_slot.as<int32_t>()[r * top_k + k];
    if (row == kNoRow) continue;
    std::memcpy(dst + (op.tokens.as<int32_t>()[r] * top_k + k) * row_bytes,
                op.sums.rows.as<std::byte>() + row * row_bytes, static_cast<size_t>(row_bytes));
  }
}

}  // namespace

template <>
void run(const ReturnRows& op, const Context& context) {
  const bool pushes =
      op.part != PeerMeet::Wait && op.sums.rows.present() && words_of(op.status).good();
  for (int s = 0; pushes && s < op.window.num_ranks; ++s) {
    const int64_t first = s * op.block, count = op.counts.as<int32_t>()[s];
    if (!op.is_of_slots()) return_sums(op, s, first, count, context);
    for (int64_t r = first; op.is_of_slots() && r < first + count; ++r) return_slots(op, s, r);
  }
  run(MeetPeers{.window = op.window,
                .phase = PeerPhase::Partials,
                .part = op.part,
                .first = 0,
                .num = op.window.num_ranks,
                .status = op.status},
      context);
}

}  // namespace switchyard::cpu
