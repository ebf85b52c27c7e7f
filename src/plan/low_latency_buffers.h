// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/low_latency_buffers.h -- the window of the low-latency dispatcher.
#pragma once

#include "base/arena.h"
#include "base/peer_control.h"
#include "plan/capacity.h"
#include "plan/row_layout.h"

namespace switchyard {

// Cut at the workspace's capacity, not at the call's bound: what peers write must not move from one
// call to the next. slice = most tokens a rank dispatches, R = most rows it receives.
struct LowLatencyBuffers {
  Tensor control;      // i64 [control_words(P)]; first, so a window begins with it
  Tensor headers;      // i32 [P, W] what every rank said
  Tensor sent;         // i32 [P]
  Tensor counts;       // i32 [P]
  Tensor num_rows;     // i32 [1]
  Tensor return_row;   // i32 [slice, P]; of sums at the source absent, as those below are without
  Tensor return_slot;  // i32 [slice, K]
  Tensor ids;          // i32 [R, K] local ids, written by peers, as is what follows
  Tensor weights;      // f32 [R, K]
  RowParts rows;       // [R, W]
  Tensor tokens;       // i32 [R] of their source
  Tensor returned;     // bf16 [R, H] partial rows, or as the experts' rows [slice * K, H]
  RowParts own_rows;   // [slice, W] of this rank; absent of bf16
  // tp > 1: bf16 or, with f32_sums, f32 [slice, H] read by peers
  Tensor output_slice;

  static LowLatencyBuffers take(Arena& arena, const MoeConfig& c, int64_t max_tokens, int num_ranks,
                                int tp_size, DType rows, bool sums_at_source) {
    LowLatencyBuffers b;
    const RowLayout layout = row_layout(rows, c.hidden);
    const int64_t p = num_ranks, k = c.top_k, h = c.hidden;
    const int64_t slice = slice_capacity(max_tokens, tp_size);
    const int64_t max_rows =
        received_rows(DispatcherKind::LowLatency, max_tokens, num_ranks, tp_size);
    b.control = arena.take(DType::I64, {control_words(p)});
    b.headers = arena.take(DType::I32, {p, header_width(PeerPhase::CountedRows)});
    b.sent = arena.take(DType::I32, {p});
    b.counts = arena.take(DType::I32, {p});
    b.num_rows = arena.take(DType::I32, {1});
    b.ids = arena.take(DType::I32, {max_rows, k});
    b.weights = arena.take(DType::F32, {max_rows, k});
    b.rows = take_rows(arena, layout, max_rows);
    if (rows != DType::Bf16) b.own_rows = take_rows(arena, layout, slice);
    if (sums_at_source) {
      b.return_slot = arena.take(DType::I32, {slice, k});
      b.tokens = arena.take(DType::I32, {max_rows});
      b.returned = arena.take(output_dtype(c), {checked_mul(slice, k, "dispatch"), h});
    } else {
      b.return_row = arena.take(DType::I32, {slice, p});
      b.returned = arena.take(DType::Bf16, {max_rows, h});
    }
    if (tp_size > 1) b.output_slice = arena.take(output_dtype(c), {slice, h});
    return b;
  }
};

}  // namespace switchyard
