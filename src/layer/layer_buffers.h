// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/layer_buffers.h -- how a layer cuts its memory, at its capacity: its state, which lives
// from call to call, and a workspace, which a call leaves to whoever comes next.
#pragma once

#include <algorithm>
#include <vector>

#include "layer/layer_plan.h"
#include "plan/buffers.h"
#include "strategy/cost_model.h"
#include "switchyard/placement.h"

namespace switchyard {

struct LayerBuffers {
  // State.
  Tensor status;          // i32 [kStatusWords]
  Tensor piece_status;    // i32 [pieces, kStatusWords] of one call; absent for one piece
  SlotTables slots;       // what kernels that write ids get: nothing, loads, a placement or both
  Tensor active;          // of slots; the layer writes it
  Tensor tables;          // the same
  Tensor active_ranks;    // i64 [1] a bit each, if calls can go on without ranks; else absent
  Tensor dropped_routes;  // i64 [1], the same; of the counters
  // One for each piece: state where peers know it as their window, else workspace.
  std::vector<Workspace> dispatcher;

  // Workspace.
  Tensor ids;      // i32 [slice, K] from the gate, or resolved from the caller's
  Tensor weights;  // f32 [slice, K] from the gate
  Workspace gate;
  SharedExpertBuffers shared;
  PathBuffers path;
  Workspace executor;
  // bf16 [R, H], of a call in pieces two of them, since one is on its way back while the next is
  // computed; absent on one rank, and where partial rows are in the dispatcher's workspace
  Tensor partial;
  // Rows without gaps of callers whose have some: bf16 and as the output [T_cap, H]; else absent
  Tensor hidden, output;

  // Allocates nothing after the first time. `counters`: i64 [plan.num_counters()], null if sizes alone
  // are wanted.
  void cut(Arena& state, Arena& arena, const LayerPlan& plan, void* counters = nullptr) {
    const MoeConfig& config = plan.config;
    const StrategyRequest& r = plan.request;
    const Strategy& s = plan.strategy;
    const bool local = s.dispatcher == DispatcherKind::Local;
    const int64_t slice = local ? r.max_tokens : slice_capacity(r.max_tokens, r.tp_size);
    const int64_t tokens = cut_tokens(r.max_tokens, r.max_tokens, s.token_pieces).tokens;
    const int64_t max_rows = received_rows(s.dispatcher, tokens, r.num_ranks, r.tp_size);
    Arena of_gate({});
    GateBuffers::take(of_gate, config, slice);
    dispatcher.clear();
    status = state.take(DType::I32, {kStatusWords});
    if (s.token_pieces > 1) piece_status = state.take(DType::I32, {s.token_pieces, kStatusWords});
    cut_slots(state, plan);
    if (plan.outlives_ranks()) active_ranks = state.take(DType::I64, {1});
    cut_counters(plan, counters, status.device);
    ids = arena.take(DType::I32, {slice, r.config.top_k});
    weights = arena.take(DType::F32, {slice, r.config.top_k});
    gate = arena.take_bytes(static_cast<int64_t>(of_gate.bytes()));
    // Behind a path, shared experts see all tokens, not this rank's slice.
    shared = SharedExpertBuffers::take(arena, config, config.path.present() ? r.max_tokens : slice,
                                       s.provider);
    path = PathBuffers::take(arena, config, config.path.present() ? r.max_tokens : slice);
    const RowTravel travel = row_travel(s.dispatcher, r, s.token_pieces);
    for (int i = 0; i < s.token_pieces; ++i)
      dispatcher.push_back(
          (is_peer(travel.carrier) ? state : arena)
              .take_bytes(dispatcher_bytes(s.dispatcher, r.config, tokens, r.num_ranks, r.tp_size,
                                           travel, r.sums_at_source)));
    executor = arena.take_bytes(executor_bytes(ExecutorShape::of(r, s.provider), s.executor,
                                               r.masked_max_tokens, max_rows));
    if (r.num_ranks > 1 && !is_peer(travel.carrier))
      partial = arena.take(DType::Bf16, {std::min(s.token_pieces, 2) * max_rows, r.config.hidden});
    if (!plan.strided_rows) return;
    hidden = arena.take(DType::Bf16, {r.max_tokens, config.hidden});
    output = arena.take(output_dtype(config), {r.max_tokens, config.hidden});
  }

 private:
  void cut_slots(Arena& state, const LayerPlan& plan) {
    const int64_t num_experts = plan.config.num_experts;
    const auto num_slots = static_cast<int64_t>(plan.placement.size());
    slots = {.num_experts = num_experts};
    // Ranks that hold the same tokens must choose alike, whatever the last bit of their weights.
    slots.by_token =
        plan.strategy.dispatcher == DispatcherKind::Local && plan.request.num_ranks > 1;
    if (num_slots > 0) {
      slots.active = active = state.take(DType::I32, {1});
      slots.tables = tables = state.take(DType::I32, {2, num_experts + 1 + num_slots});
    }
  }
  void cut_counters(const LayerPlan& plan, void* memory, DeviceKind device) {
    auto* next = static_cast<int64_t*>(memory);
    if (next == nullptr) return;
    if (plan.counts_loads) {
      slots.loads = Tensor(next, DType::I64, {plan.config.num_experts}, device);
      next += plan.config.num_experts;
    }
    if (plan.outlives_ranks()) dropped_routes = Tensor(next, DType::I64, {1}, device);
  }
};

}  // namespace switchyard
