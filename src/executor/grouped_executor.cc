// src/executor/grouped_executor.cc
#include "executor/grouped_executor.h"

#include "base/require.h"

namespace switchyard {

size_t GroupedExecutor::workspace_bytes(int64_t max_rows) const {
  return static_cast<size_t>(executor_bytes(parts_.shape(), parts_.options.kind,
                                            parts_.options.masked_max_tokens, max_rows));
}

void GroupedExecutor::check(Tensor dst, const ReceivedRows& rows, int64_t max_rows) const {
  const int64_t hidden = parts_.config.hidden, top_k = parts_.config.top_k;
  SWITCHYARD_REQUIRE(max_rows >= 0, ShapeMismatch, "execute: max_rows=", max_rows,
                     ", must not be negative.");
  const bool may_be_f32 = parts_.config.f32_sums && dst.dtype == DType::F32;
  SWITCHYARD_REQUIRE(rows.rows.dim(1) == hidden && dst.dim(1) == hidden &&
                         (dst.dtype == DType::Bf16 || may_be_f32) && rows.rows.dtype == DType::Bf16,
                     ShapeMismatch, "execute: rows or dst are not bf16 [R, ", hidden, "].");
  SWITCHYARD_REQUIRE(rows.ids.shape == (Shape{max_rows, top_k}) && rows.ids.dtype == DType::I32,
                     ShapeMismatch, "execute: ids are not i32 [", max_rows, ", ", top_k, "].");
}

GroupedGemm GroupedExecutor::gemm1(const ExecutorBuffers& b, const ReceivedRows& rows) const {
  GroupedGemm gemm;
  gemm.name = "grouped_gemm1";
  gemm.dst = b.y;
  gemm.src = b.x;
  gemm.weights = parts_.weights.w1;
  gemm.bias = parts_.weights.b1;
  gemm.groups = {b.counts, b.first_row, b.next_step};
  gemm.activation = &parts_.config.activation;
  gemm.order = parts_.weights.order;
  if (parts_.config.router_weight_on_input) {
    gemm.row_weights = rows.weights;
    gemm.slot_of_row = b.slot_of_row;
  }
  return gemm;
}

GroupedGemm GroupedExecutor::gemm2(const ExecutorBuffers& b) const {
  GroupedGemm gemm;
  gemm.name = "grouped_gemm2";
  gemm.dst = b.rows;
  gemm.src = b.y;
  gemm.weights = parts_.weights.w2;
  gemm.bias = parts_.weights.b2;
  gemm.groups = {b.counts, b.first_row, b.next_step};
  return gemm;
}

SlotSums GroupedExecutor::execute(Tensor dst, const ReceivedRows& rows, int64_t max_rows,
                                  Workspace workspace, const Addend& addend, Tensor status,
                                  CUstream_st* stream) {
  check(dst, rows, max_rows);
  if (max_rows == 0) return {};  // no row can exist, so nothing is launched
  const Layout layout = layout_for(max_rows);
  Arena arena(workspace, parts_.backend->kind());
  const auto b = ExecutorBuffers::take(arena, parts_.shape(), layout, max_rows);
  const int64_t max_slots = checked_mul(max_rows, parts_.config.top_k, "execute");
  Ops& ops = parts_.backend->ops();

  const bool on_input = parts_.config.router_weight_on_input;
  ops.run(PlanRows{.layout = layout,
                   .alignment = parts_.options.alignment,
                   .capacity = b.capacity,
                   .groups = {b.counts, b.first_row, b.next_step},
                   .row_of_slot = b.row_of_slot,
                   .slot_of_row = on_input ? b.slot_of_row : Tensor{},
                   .row_expert = {},
                   .scratch = b.plan_scratch,
                   .ids = rows.ids,
                   .num_rows = rows.num_rows,
                   .rank = parts_.rank,
                   .status = status},
          stream);
  if (rows.peers)
    ops.run(FetchRows{*rows.peers, b.x, rows.rows, rows.block, b.row_of_slot, rows.num_rows},
            stream);
  else
    ops.run(ScatterRows{b.x, rows.rows, b.row_of_slot, rows.num_rows}, stream);
  for (GroupedGemm gemm : {gemm1(b, rows), gemm2(b)}) {
    gemm.layout = layout;
    gemm.max_rows = max_slots;
    gemm.provider = parts_.provider();
    gemm.host_counts = parts_.options.host_counts;
    if (b.sums.present() && (gemm.activation != nullptr || gemm.bias.present()))
      gemm.scratch =
          Tensor(b.sums.data, DType::F32, {b.num_rows, gemm.weights.dim(1)}, b.sums.device);
    ops.run(gemm, stream);
  }
  const ConstTensor weights = on_input ? ConstTensor{} : rows.weights;
  const SlotSums sums{b.rows, b.row_of_slot, weights};
  ops.run(GatherRows{dst, sums, addend, rows.num_rows, {rows.has_gaps, rows.left_out}}, stream);
  return sums;
}

}  // namespace switchyard
