// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/executor/executor.cc -- scatter, unless GEMM1 gathers, and two grouped GEMMs: the flow of every
// executor. They differ in the layout of a call, and in nothing else.
#include "switchyard/executor.h"

#include "base/as_error.h"
#include "base/backend.h"
#include "base/enumerator.h"
#include "base/require.h"
#include "ops/ops.h"
#include "plan/buffers.h"
#include "strategy/conditions.h"
#include "strategy/gemm_choice.h"
#include "strategy/names.h"

namespace switchyard {
namespace {

struct ExecutorParts {
  MoeConfig config;
  ExecutorOptions options;
  ExpertWeights weights;
  int num_ranks = 1;
  int rank = 0;
  std::shared_ptr<Backend> backend;

  GemmProvider provider() const { return options.provider.value_or(backend->provider()); }
  ExecutorShape shape() const {
    return {config.hidden,
            config.intermediate,
            experts_of_rank(config.num_experts, num_ranks),
            config.top_k,
            options.alignment,
            options.allow_repeated_experts,
            sums_columns(config, provider()),
            config.f32_sums,
            f8_sums_columns(config, weights.w1.dtype)};
  }
};

class GroupedExecutor final : public Executor {
 public:
  explicit GroupedExecutor(ExecutorParts parts) : parts_(std::move(parts)) {}

  ExecutorKind kind() const override { return parts_.options.kind; }

  // Hybrid: the bound of the call decides, on the host: equal on every rank and fixed when a graph
  // is captured.
  Layout layout_for(int64_t max_rows) const override {
    switch (kind()) {
      case ExecutorKind::Contiguous: return Layout::Contiguous;
      case ExecutorKind::Masked: return Layout::Masked;
      case ExecutorKind::Hybrid: break;
    }
    return max_rows <= parts_.options.masked_max_tokens ? Layout::Masked : Layout::Contiguous;
  }

  size_t workspace_bytes(int64_t max_rows) const override {
    return static_cast<size_t>(
        executor_bytes(parts_.shape(), kind(), parts_.options.masked_max_tokens, max_rows));
  }

  SlotSums execute(const ReceivedRows& rows, int64_t max_rows, Workspace workspace, Tensor status,
                   CUstream_st* stream) override {
    check(rows, max_rows);
    if (rows.ids.dim(0) == 0) return {};  // no row can exist, so nothing is launched
    const Layout layout = layout_for(max_rows);
    Arena arena(workspace, parts_.backend->kind());
    const auto b = ExecutorBuffers::take(arena, parts_.shape(), layout, max_rows);
    arena.require_memory("execute");
    const bool on_input = parts_.config.router_weight_on_input;
    Ops& ops = parts_.backend->ops();
    const int64_t num_rows = rows.ids.dim(0);  // at most
    const Tensor row_of_slot = b.row_of_slot.rows(0, num_rows);
    if (parts_.weights.w1.dtype == DType::F8E4m3)
      return execute_f8(b, rows, layout, row_of_slot, status, stream);
    GroupedGemm first = gemm1(b, rows), second = gemm2(b);
    for (GroupedGemm* gemm : {&first, &second}) {
      gemm->groups = {b.counts, b.first_row, b.next_step};
      gemm->layout = layout;
      gemm->max_rows = checked_mul(num_rows, parts_.config.top_k, "execute");
      gemm->provider = parts_.provider();
      gemm->host_counts = parts_.options.host_counts;
      if (b.sums.present() && (gemm->activation != nullptr || gemm->bias.present()))
        gemm->scratch =
            Tensor(b.sums.data, DType::F32, {b.num_rows, gemm->weights.dim(1)}, b.sums.device);
    }
    second.groups_are_older = true;
    first.config = find_gemm_config(parts_.options.gemm1);
    second.config = find_gemm_config(parts_.options.gemm2);
    const int tile_rows = parts_.backend->rows_of_tile(first);
    const bool gathers = !rows.source.peers.present() && tile_rows > 0;
    const int64_t most = tile_rows > 0 ? most_tiles(first.max_rows, b.counts.dim(0), tile_rows) : 0;
    if (most > 0 && most <= b.tiles.dim(0)) {
      first.groups.tiles = b.tiles.rows(0, most);
      first.groups.tile_rows = tile_rows;
      if (parts_.backend->rows_of_tile(second) >= tile_rows) second.groups = first.groups;
    }
    PlanRows plan = plan_rows(b, rows, layout, row_of_slot, on_input || gathers, status);
    plan.groups = first.groups;
    ops.run(plan, stream);
    if (gathers) {
      first.src = rows.source.rows;
      first.slot_of_row = b.slot_of_row;
      first.slots_per_row = static_cast<int>(parts_.config.top_k);
    } else {
      ops.run(ScatterRows{b.x, rows.source, row_of_slot, rows.num_rows}, stream);
    }
    ops.run(first, stream);
    ops.run(second, stream);
    return {b.rows, row_of_slot, on_input ? ConstTensor{} : rows.weights};
  }

 private:
  // Rows are quantised once, whatever number of experts they have. GEMM1 gathers them, or on a GPU
  // their scales: the copy engine wants the codes of an expert one below the other.
  SlotSums execute_f8(const ExecutorBuffers& b, const ReceivedRows& rows, Layout layout,
                      Tensor row_of_slot, Tensor status, CUstream_st* stream) {
    const MoeConfig& c = parts_.config;
    const ExpertWeights& w = parts_.weights;
    Ops& ops = parts_.backend->ops();
    const int64_t num_rows = rows.ids.dim(0);
    const RowGroups groups{b.counts, b.first_row, b.next_step};
    const int64_t max_rows = checked_mul(num_rows, c.top_k, "execute");
    ops.run(plan_rows(b, rows, layout, row_of_slot, true, status), stream);
    const RowSource x = quantised(b, rows, stream);
    ScaledGemm first, second;
    for (ScaledGemm* gemm : {&first, &second}) {
      gemm->groups = groups;
      gemm->layout = layout;
      gemm->max_rows = max_rows;
    }
    first.config = find_gemm_config(parts_.options.gemm1);
    second.config = find_gemm_config(parts_.options.gemm2);
    first.name = "scaled_gemm1";
    first.dst = b.y;
    first.dst_scales = b.y_scales;
    first.sums = b.sums;
    first.activation = &c.activation;
    first.order = w.order;
    first.src = x.rows;
    first.src_scales = {x.scales, {1, kQuantGroup}};
    first.weights = w.w1;
    first.weight_scales = w.w1_scales;
    first.bias = w.b1;
    first.slot_of_row = b.slot_of_row;
    if (c.router_weight_on_input) first.row_weights = rows.weights;
    first.slots_per_row = static_cast<int>(c.top_k);
    const bool fetches = x.peers.present();
    if (fetches || parts_.backend->kind() == DeviceKind::Cuda) {
      const Tensor codes(b.rows.data, DType::F8E4m3, {b.num_rows, c.hidden}, b.rows.device);
      ops.run(ScatterRows{codes, x, row_of_slot, rows.num_rows}, stream);
      first.src = codes;
      first.src_is_scattered = true;
    }
    if (fetches) {
      ops.run(ScatterRows{b.x_scales, {x.scales, x.peers, x.block}, row_of_slot, rows.num_rows},
              stream);
      first.src_scales.values = b.x_scales;
      first.slots_per_row = 0;
    }
    ops.run(first, stream);
    second.name = "scaled_gemm2";
    second.dst = b.rows;
    second.src = b.y;
    second.src_scales = {b.y_scales, {1, kQuantGroup}};
    second.weights = w.w2;
    second.weight_scales = w.w2_scales;
    second.bias = w.b2;
    second.groups_are_older = true;
    ops.run(second, stream);
    return {b.rows, row_of_slot, c.router_weight_on_input ? ConstTensor{} : rows.weights};
  }

  // The received rows in f8_e4m3: as they came, or quantised here.
  RowSource quantised(const ExecutorBuffers& b, const ReceivedRows& rows, CUstream_st* stream) {
    const RowSource& source = rows.source;
    if (source.scales.present()) return source;
    const int64_t num_rows = rows.ids.dim(0);
    const RowSource x{.rows = b.x, .scales = b.x_scales};
    parts_.backend->ops().run(QuantizeRows{.dst = b.x.rows(0, num_rows),
                                           .scales = b.x_scales.rows(0, num_rows),
                                           .src = source.rows.rows(0, num_rows),
                                           .num_rows = rows.num_rows},
                              stream);
    return x;
  }

  PlanRows plan_rows(const ExecutorBuffers& b, const ReceivedRows& rows, Layout layout,
                     Tensor row_of_slot, bool needs_slots, Tensor status) const {
    return {.layout = layout,
            .alignment = parts_.options.alignment,
            .capacity = b.capacity,
            .groups = {b.counts, b.first_row, b.next_step},
            .row_of_slot = row_of_slot,
            .slot_of_row = needs_slots ? b.slot_of_row : Tensor{},
            .row_expert = {},
            .scratch = b.plan_scratch,
            .ids = rows.ids,
            .num_rows = rows.num_rows,
            .notes_bad_ids = rows.ids_are_given,
            .rank = parts_.rank,
            .status = status};
  }

  void check(const ReceivedRows& rows, int64_t max_rows) const {
    const int64_t top_k = parts_.config.top_k;
    SWITCHYARD_REQUIRE(max_rows >= 0, ShapeMismatch, "execute: max_rows=", max_rows,
                       ", must not be negative.");
    check_source(rows.source);
    SWITCHYARD_REQUIRE(rows.ids.shape.rank() == 2 && rows.ids.dim(0) <= max_rows &&
                           rows.ids.dim(1) == top_k && rows.ids.dtype == DType::I32,
                       ShapeMismatch, "execute: ids are not i32 [", max_rows, ", ", top_k,
                       "] or fewer rows of it.");
  }

  void check_source(const RowSource& source) const {
    const int64_t hidden = parts_.config.hidden, groups = ceil_div(hidden, kQuantGroup);
    const bool f8 = source.rows.dtype == DType::F8E4m3;
    const DType experts = parts_.weights.w1.dtype;
    SWITCHYARD_REQUIRE(source.rows.dim(1) == hidden && (source.rows.dtype == DType::Bf16 || f8),
                       ShapeMismatch, "execute: rows are not bf16 or f8_e4m3 [R, ", hidden, "].");
    SWITCHYARD_REQUIRE(source.scales.present() == f8 &&
                           (!f8 || (source.scales.dtype == DType::F32 &&
                                    source.scales.shape == Shape{source.rows.dim(0), groups})),
                       ShapeMismatch, "execute: scales of rows in ", dtype_name(source.rows.dtype),
                       ", need f32 [R, ", groups, "] with f8_e4m3 and none with bf16.");
    SWITCHYARD_REQUIRE(!f8 || experts == DType::F8E4m3, ShapeMismatch,
                       "execute: rows=f8_e4m3, experts are ", dtype_name(experts),
                       ". Dispatch rows as bf16.");
    SWITCHYARD_REQUIRE(f8 || experts == DType::Bf16 || !source.peers.present(), ShapeMismatch,
                       "execute: rows=bf16 in memory of peers, experts in f8_e4m3 need them here "
                       "or quantised. Push rows, or dispatch them as f8_e4m3.");
  }

  GroupedGemm gemm1(const ExecutorBuffers& b, const ReceivedRows& rows) const {
    GroupedGemm gemm;
    gemm.name = "grouped_gemm1";
    gemm.dst = b.y;
    gemm.src = b.x;
    gemm.weights = parts_.weights.w1;
    gemm.bias = parts_.weights.b1;
    gemm.activation = &parts_.config.activation;
    gemm.order = parts_.weights.order;
    if (parts_.config.router_weight_on_input) {
      gemm.row_weights = rows.weights;
      gemm.slot_of_row = b.slot_of_row;
    }
    return gemm;
  }

  GroupedGemm gemm2(const ExecutorBuffers& b) const {
    GroupedGemm gemm;
    gemm.name = "grouped_gemm2";
    gemm.dst = b.rows;
    gemm.src = b.y;
    gemm.weights = parts_.weights.w2;
    gemm.bias = parts_.weights.b2;
    return gemm;
  }

  ExecutorParts parts_;
};

}  // namespace

void sum_rows(Backend& backend, Tensor dst, const SlotSums& sums, const ReceivedRows& rows,
              CUstream_st* stream) {
  if (!sums.rows.present()) return;
  SWITCHYARD_REQUIRE(dst.dim(1) == sums.rows.dim(1) && dst.dim(0) >= sums.row_of_slot.dim(0) &&
                         (dst.dtype == DType::Bf16 || dst.dtype == DType::F32),
                     ShapeMismatch, "sum_rows: dst is not bf16 or f32 [", sums.row_of_slot.dim(0),
                     ", ", sums.rows.dim(1), "]. Give every received row a row of dst.");
  backend.ops().run(gather_rows(dst, sums, rows), stream);
}

std::unique_ptr<Executor> make_executor(const MoeConfig& config, const ExecutorOptions& options,
                                        const ExpertWeights& weights, int num_ranks, int rank,
                                        std::shared_ptr<Backend> backend) {
  validate(config);
  SWITCHYARD_REQUIRE(num_ranks >= 1 && rank >= 0 && rank < num_ranks, ShapeMismatch,
                     "make_executor: rank=", rank, " of ", num_ranks,
                     ", need a rank of 0 to num_ranks-1.");
  require_enumerator("make_executor", "kind", options.kind, kExecutors, "ExecutorKind");
  require_backend("make_executor", backend);
  StrategyRequest request;
  request.config = config;
  request.num_ranks = num_ranks;
  request.alignment = options.alignment;
  request.masked_max_tokens = options.masked_max_tokens;
  request.allow_repeated_experts = options.allow_repeated_experts;
  request.host_counts = options.host_counts;
  request.device = describe_device(backend->kind());
  request.num_sms = backend->num_sms();
  request.gemm1 = options.gemm1;
  request.gemm2 = options.gemm2;
  request.experts = weights.w1.dtype == DType::F8E4m3 ? DType::F8E4m3 : DType::Bf16;
  const GemmProvider provider = options.provider.value_or(backend->provider());
  return as_errors("make_executor", [&] {
    require_all("make_executor", expert_conditions(request));
    require_all("make_executor", executor_conditions(options.kind, request));
    require_all("make_executor", provider_conditions(provider, options.kind, request));
    require_all("make_executor", gemm_conditions(provider, request));
    validate(weights, config, num_ranks, backend->kind());
    backend->prepare(provider);
    SWITCHYARD_REQUIRE(
        is_arranged(weights), Unsupported,
        "make_executor: weights are not arranged, kernels read them as they are. Call "
        "arrange_weights.");
    return std::make_unique<GroupedExecutor>(
        ExecutorParts{config, options, weights, num_ranks, rank, std::move(backend)});
  });
}

}  // namespace switchyard
