// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/buffers.h -- the buffers of one call, taken from an arena. Run over an empty workspace
// they give the size, which is how the strategy, workspace_bytes and the call itself agree.
#pragma once

#include "base/arena.h"
#include "base/peer_control.h"
#include "plan/capacity.h"
#include "plan/index.h"
#include "plan/low_latency_buffers.h"
#include "plan/row_carrier.h"
#include "plan/row_layout.h"
#include "switchyard/dispatcher.h"

namespace switchyard {

struct ExecutorBuffers {
  int64_t num_rows = 0;  // C
  int64_t capacity = 0;  // masked: rows per expert
  Tensor counts;         // i32 [E_local]
  Tensor first_row;      // i64 [E_local + 1]
  Tensor next_step;      // i32 [1]
  Tensor row_of_slot;    // i32 [R, K]
  Tensor slot_of_row;    // i32 [C]
  Tensor plan_scratch;   // i32 [kPlanBlocks, E_local]
  Tensor tiles;          // RowTile [kTilesPerExpert * E_local], as i32
  Tensor x;              // bf16 [C, H]
  Tensor rows;           // of GEMM2: bf16 [C, H], which is x once GEMM1 has read it, or f32 [C, H]
  Tensor y;              // bf16 [C, I]
  Tensor sums;           // f32 [C, sums_columns]; absent unless the provider needs it
  // Experts in f8_e4m3: x is f8_e4m3 [R, H], in the order of the received rows, y f8_e4m3 [C, I], and
  // rows, until GEMM2, may hold the codes of x in their places.
  Tensor x_scales;  // f32 [C, ceil(H / kQuantGroup)] in the order of x, or of those places
  Tensor y_scales;  // f32 [C, ceil(I / kQuantGroup)]

  static ExecutorBuffers take(Arena& arena, const ExecutorShape& s, Layout layout,
                              int64_t max_rows) {
    ExecutorBuffers b;
    b.num_rows = buffer_rows(s, layout, max_rows);
    b.capacity = layout == Layout::Masked ? masked_capacity(s, max_rows) : 0;
    b.counts = arena.take(DType::I32, {s.num_local_experts});
    b.first_row = arena.take(DType::I64, {s.num_local_experts + 1});
    b.next_step = arena.take(DType::I32, {1});
    b.row_of_slot = arena.take(DType::I32, {max_rows, s.top_k});
    b.slot_of_row = arena.take(DType::I32, {b.num_rows});
    b.plan_scratch = arena.take(DType::I32, {kPlanBlocks, s.num_local_experts});
    if (s.f8_sums_columns > 0) return take_f8(b, arena, s, max_rows);
    b.tiles = arena.take(DType::I32, {kTilesPerExpert * s.num_local_experts, kRowTileWords});
    b.x = arena.take(DType::Bf16, {b.num_rows, s.hidden});
    b.rows = s.f32_rows ? arena.take(DType::F32, {b.num_rows, s.hidden}) : b.x;
    b.y = arena.take(DType::Bf16, {b.num_rows, s.intermediate});
    if (s.sums_columns > 0) b.sums = arena.take(DType::F32, {b.num_rows, s.sums_columns});
    return b;
  }

 private:
  static ExecutorBuffers take_f8(ExecutorBuffers b, Arena& arena, const ExecutorShape& s,
                                 int64_t max_rows) {
    const auto take_scales = [&](int64_t width) {
      return arena.take(DType::F32, {b.num_rows, ceil_div(width, kQuantGroup)});
    };
    b.x = arena.take(DType::F8E4m3, {max_rows, s.hidden});
    b.x_scales = take_scales(s.hidden);
    b.sums = arena.take(DType::F32, {b.num_rows, s.f8_sums_columns});
    b.y = arena.take(DType::F8E4m3, {b.num_rows, s.intermediate});
    b.y_scales = take_scales(s.intermediate);
    b.rows = arena.take(s.f32_rows ? DType::F32 : DType::Bf16, {b.num_rows, s.hidden});
    return b;
  }
};

inline int64_t executor_bytes(const ExecutorShape& shape, Layout layout, int64_t max_rows) {
  Arena arena({});
  ExecutorBuffers::take(arena, shape, layout, max_rows);
  return static_cast<int64_t>(arena.bytes());
}

// Bytes of an executor for every call up to max_rows: the hybrid sizes its masked buffers at its
// threshold only.
inline int64_t executor_bytes(const ExecutorShape& shape, ExecutorKind kind,
                              int64_t masked_max_tokens, int64_t max_rows) {
  switch (kind) {
    case ExecutorKind::Contiguous: return executor_bytes(shape, Layout::Contiguous, max_rows);
    case ExecutorKind::Masked: return executor_bytes(shape, Layout::Masked, max_rows);
    case ExecutorKind::Hybrid: break;
  }
  const int64_t masked_rows = std::min(masked_max_tokens, max_rows);
  return std::max(
      executor_bytes(shape, Layout::Masked, masked_rows),
      max_rows > masked_max_tokens ? executor_bytes(shape, Layout::Contiguous, max_rows) : 0);
}

// One expert that owns every row: the router, and shared experts.
struct SingleGroupBuffers {
  Tensor counts;     // i32 [1]
  Tensor first_row;  // i64 [2]

  static SingleGroupBuffers take(Arena& arena) {
    return {arena.take(DType::I32, {1}), arena.take(DType::I64, {2})};
  }
};

// bf16 numbers that one number of a router in f32 is the sum of.
inline constexpr int kRouterParts = 3;
inline int64_t router_parts(const MoeConfig& config) {
  return config.router_f32 ? kRouterParts : 1;
}

struct GateBuffers {
  SingleGroupBuffers group;
  Tensor logits;       // f32 [T, parts * rows of the router]
  Tensor inverse_rms;  // f32 [T]; absent unless logits are of normed rows

  static GateBuffers take(Arena& arena, const MoeConfig& config, int64_t num_tokens) {
    GateBuffers b;
    b.group = SingleGroupBuffers::take(arena);
    b.logits = arena.take(DType::F32, {num_tokens, router_parts(config) * config.router_rows()});
    if (config.gate.rms_of_hidden) b.inverse_rms = arena.take(DType::F32, {num_tokens});
    return b;
  }
};

struct SharedExpertBuffers {
  SingleGroupBuffers group;
  Tensor activated;  // bf16 [T, Is], or [T, Is / S] of S scored ones, one after the other
  Tensor rows;       // f32 [T, H]
  Tensor each;       // f32 [S, T, H] of scored ones; absent for none
  Tensor weights;    // f32 [T, S] that the gate gave them
  Tensor gate;       // f32 [T, 1]; absent without a sigmoid gate
  Tensor sums;       // f32 [T, rows of W1]; cuBLAS only

  static SharedExpertBuffers take(Arena& arena, const MoeConfig& config, int64_t num_tokens,
                                  GemmProvider provider) {
    SharedExpertBuffers b;
    if (config.shared.intermediate == 0) return b;
    const int64_t scored = config.shared.num_scored, parts = std::max<int64_t>(1, scored);
    b.group = SingleGroupBuffers::take(arena);
    b.activated = arena.take(DType::Bf16, {num_tokens, config.shared.intermediate / parts});
    b.rows = arena.take(DType::F32, {num_tokens, config.hidden});
    if (scored > 0) b.each = arena.take(DType::F32, {scored, num_tokens, config.hidden});
    if (scored > 0) b.weights = arena.take(DType::F32, {num_tokens, scored});
    if (config.shared.sigmoid_gated) b.gate = arena.take(DType::F32, {num_tokens, 1});
    if (provider == GemmProvider::Cublas)
      b.sums = arena.take(DType::F32, {num_tokens, config.shared_w1_rows() / parts});
    return b;
  }
};

// What stands around the routed experts, and the identity of zero experts.
struct PathBuffers {
  SingleGroupBuffers group;
  Tensor rows;      // bf16 [T, L] or [T, H] what the experts get; absent without a path
  Tensor sums;      // [T, L] or [T, H] what they give: f32 before a norm, else bf16
  Tensor up;        // f32 [T, H] of a latent path
  Tensor hidden;    // f32 [T, H] with zero experts
  Tensor identity;  // f32 [T] with zero experts: the weight of the token's own row

  static PathBuffers take(Arena& arena, const MoeConfig& config, int64_t num_tokens) {
    PathBuffers b;
    if (config.path.present()) {
      b.group = SingleGroupBuffers::take(arena);
      b.rows = arena.take(DType::Bf16, {num_tokens, config.routed_hidden()});
      b.sums = arena.take(config.path.output_norm ? DType::F32 : DType::Bf16,
                          {num_tokens, config.routed_hidden()});
      if (config.path.latent > 0) b.up = arena.take(DType::F32, {num_tokens, config.hidden});
    }
    if (config.gate.num_zero_experts == 0) return b;
    b.hidden = arena.take(DType::F32, {num_tokens, config.hidden});
    b.identity = arena.take(DType::F32, {num_tokens});
    return b;
  }
};

// Rows between ranks that send messages: [N, W] of each part.
struct RowBlocks {
  RowParts sent;     // to every rank, on their way there
  RowParts arrived;  // as they came; absent where exactly the rows travel

  static RowBlocks take(Arena& arena, const RowLayout& layout, int64_t num_rows,
                        RowCarrier carrier) {
    RowBlocks b;
    b.sent = take_rows(arena, layout, num_rows);
    if (carrier == RowCarrier::NcclBlocks) b.arrived = take_rows(arena, layout, num_rows);
    return b;
  }
};

// Token rows there, and partial rows back: never on their way together, so in the same memory.
struct RowBlocksOfCall {
  RowBlocks there, back;

  static RowBlocksOfCall take(Arena& arena, const RowLayout& there, const RowLayout& back,
                              int64_t num_rows, RowCarrier carrier) {
    Arena size_there({}), size_back({});
    RowBlocks::take(size_there, there, num_rows, carrier);
    RowBlocks::take(size_back, back, num_rows, carrier);
    const Workspace memory =
        arena.take_bytes(static_cast<int64_t>(std::max(size_there.bytes(), size_back.bytes())));
    Arena in_there(memory, arena.device()), in_back(memory, arena.device());
    return {RowBlocks::take(in_there, there, num_rows, carrier),
            RowBlocks::take(in_back, back, num_rows, carrier)};
  }
};

// Dispatch and combine together. slice = most tokens a rank dispatches, R = most rows it receives.
struct DispatchBuffers {
  Tensor ids;         // i32 [R, K] local ids
  Tensor num_rows;    // i32 [1]
  Tensor header;      // i32 [W] what this rank says
  Tensor headers;     // i32 [P, W] what every rank says
  Tensor return_row;  // i32 [slice, P]
  // bf16 [P * slice, H] partial rows that came back, or as the experts' rows [P * slice, K * H]
  Tensor returned;
  Tensor counts;         // normal: i32 [P, P] source, destination
  Tensor counts_back;    // normal: i32 [P, P] its transpose
  RowParts rows;         // [R, W]
  Tensor received_ids;   // i32 [R, K] global ids
  Tensor weights;        // f32 [R, K]
  Tensor send_counts;    // normal: i32 [P]
  Tensor send_rows;      // normal: i32 [P * slice]
  Tensor slot_rows;      // of sums at the source: as the experts' rows [R, K * H] on their way back
  Tensor return_slot;    // of sums at the source: i32 [slice, K] the row of each slot in returned
  RowParts own_rows;     // [slice, W]: all_gather: padded; normal: absent of bf16
  Tensor own_ids;        // all_gather: i32 [slice, K], padded with -1
  Tensor own_weights;    // all_gather: f32 [slice, K], padded
  Tensor output_slice;   // tp > 1: bf16 or, with f32_sums, f32 [slice, H]
  Tensor output_slices;  // tp > 1: the same [tp * slice, H]
  RowBlocksOfCall blocks;  // normal, NCCL: [P * slice, W]

  static DispatchBuffers take(Arena& arena, DispatcherKind kind, const MoeConfig& c,
                              int64_t max_tokens, int num_ranks, int tp_size, RowTravel travel,
                              bool sums_at_source = false) {
    DispatchBuffers b;
    const RowLayout layout = row_layout(travel.rows, c.hidden);
    const int64_t p = num_ranks, k = c.top_k, h = c.hidden;
    const int64_t slice =
        kind == DispatcherKind::Local ? max_tokens : slice_capacity(max_tokens, tp_size);
    const int64_t max_rows = received_rows(kind, max_tokens, num_ranks, tp_size);
    const int64_t all_slices = checked_mul(p, slice, "dispatch");
    b.ids = arena.take(DType::I32, {max_rows, k});
    b.num_rows = arena.take(DType::I32, {1});
    if (num_ranks == 1) return b;
    b.header = arena.take(DType::I32, {kHeaderCounts + p});
    b.headers = arena.take(DType::I32, {p, kHeaderCounts + p});
    b.return_row = arena.take(DType::I32, {slice, p});
    const int64_t width = sums_at_source ? checked_mul(k, h, "dispatch") : h;
    const DType returned = sums_at_source ? output_dtype(c) : DType::Bf16;
    b.returned = arena.take(returned, {all_slices, width});
    if (kind == DispatcherKind::Local) return b;
    if (sums_at_source) {
      b.slot_rows = arena.take(returned, {max_rows, width});
      b.return_slot = arena.take(DType::I32, {slice, k});
    }
    b.rows = take_rows(arena, layout, max_rows);
    b.received_ids = arena.take(DType::I32, {max_rows, k});
    b.weights = arena.take(DType::F32, {max_rows, k});
    if (kind == DispatcherKind::AllGather || travel.rows != DType::Bf16)
      b.own_rows = take_rows(arena, layout, slice);
    if (kind == DispatcherKind::AllGather) {
      b.own_ids = arena.take(DType::I32, {slice, k});
      b.own_weights = arena.take(DType::F32, {slice, k});
    } else {
      b.counts = arena.take(DType::I32, {p, p});
      b.counts_back = arena.take(DType::I32, {p, p});
      b.send_counts = arena.take(DType::I32, {p});
      b.send_rows = arena.take(DType::I32, {all_slices});
    }
    if (tp_size > 1) {
      b.output_slice = arena.take(output_dtype(c), {slice, h});
      b.output_slices = arena.take(output_dtype(c), {checked_mul(tp_size, slice, "dispatch"), h});
    }
    if (kind == DispatcherKind::Normal && is_nccl(travel.carrier))
      b.blocks = RowBlocksOfCall::take(arena, layout.with_slots(k), row_layout(DType::Bf16, h),
                                       all_slices, travel.carrier);
    return b;
  }
};

// The same where ranks reach into each other's memory. Cut at the workspace's capacity, not at the
// call's bound: what peers read or write must not move from one call to the next.
struct PeerBuffers {
  Tensor control;     // i64 [control_words(P)]; first, so a window begins with it
  Tensor headers;     // i32 [P, W] what every rank said
  Tensor num_rows;    // i32 [1]
  Tensor return_row;  // i32 [slice, P] the token's row on each rank that owns one of its experts
  Tensor ids;         // i32 [R, K] local ids, written by peers
  Tensor weights;     // f32 [R, K] written by peers; absent when nothing moves
  // PeerPush: [R, W] written by peers. PeerFetch: [slice, W] read by peers. Absent when nothing moves
  RowParts rows;
  RowParts own_rows;    // PeerPush: [slice, W] of this rank; absent of bf16
  Tensor partial;       // bf16 [R, H] read by peers
  Tensor output_slice;  // tp > 1: bf16 or, with f32_sums, f32 [slice, H] read by peers

  static PeerBuffers take(Arena& arena, DispatcherKind kind, const MoeConfig& c, int64_t max_tokens,
                          int num_ranks, int tp_size, RowTravel travel) {
    PeerBuffers b;
    const RowLayout layout = row_layout(travel.rows, c.hidden);
    const bool fetched = travel.carrier == RowCarrier::PeerFetch;
    const int64_t p = num_ranks, k = c.top_k, h = c.hidden;
    const bool moves = kind != DispatcherKind::Local;
    const int64_t slice = moves ? slice_capacity(max_tokens, tp_size) : max_tokens;
    const int64_t max_rows = received_rows(kind, max_tokens, num_ranks, tp_size);
    b.control = arena.take(DType::I64, {control_words(p)});
    b.headers = arena.take(DType::I32, {p, header_width(PeerPhase::Rows)});
    b.num_rows = arena.take(DType::I32, {1});
    b.return_row = arena.take(DType::I32, {slice, p});
    b.ids = arena.take(DType::I32, {max_rows, k});
    if (moves) b.weights = arena.take(DType::F32, {max_rows, k});
    if (moves) b.rows = take_rows(arena, layout, fetched ? slice : max_rows);
    if (moves && !fetched && travel.rows != DType::Bf16)
      b.own_rows = take_rows(arena, layout, slice);
    b.partial = arena.take(DType::Bf16, {max_rows, h});
    if (moves && tp_size > 1) b.output_slice = arena.take(output_dtype(c), {slice, h});
    return b;
  }
};

inline int64_t dispatcher_bytes(DispatcherKind kind, const MoeConfig& config, int64_t max_tokens,
                                int num_ranks, int tp_size, RowTravel travel,
                                bool sums_at_source = false) {
  Arena arena({});
  if (is_peer(travel.carrier) && kind == DispatcherKind::LowLatency)
    LowLatencyBuffers::take(arena, config, max_tokens, num_ranks, tp_size, travel.rows,
                            sums_at_source);
  else if (is_peer(travel.carrier))
    PeerBuffers::take(arena, kind, config, max_tokens, num_ranks, tp_size, travel);
  else
    DispatchBuffers::take(arena, kind, config, max_tokens, num_ranks, tp_size, travel,
                          sums_at_source);
  return static_cast<int64_t>(arena.bytes());
}

}  // namespace switchyard
