// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/executor/pack_by_expert.cc -- received rows as experts outside Switchyard want them.
#include "base/arena.h"
#include "base/as_error.h"
#include "base/backend.h"
#include "base/checked.h"
#include "base/require.h"
#include "ops/ops.h"
#include "plan/capacity.h"
#include "switchyard/executor.h"

namespace switchyard {
namespace {

struct PackBuffers {
  ExpertRows packed;
  Tensor first_row;  // i64 [E_local + 1]
  Tensor scratch;    // i32 [kPlanBlocks, E_local]

  static PackBuffers take(Arena& arena, const PackShape& s) {
    PackBuffers b;
    b.packed.counts = arena.take(DType::I32, {s.num_experts});
    b.first_row = arena.take(DType::I64, {s.num_experts + 1});
    b.packed.row_of_slot = arena.take(DType::I32, {s.max_rows, s.top_k});
    b.scratch = arena.take(DType::I32, {kPlanBlocks, s.num_experts});
    b.packed.rows =
        arena.take(DType::Bf16, {checked_mul(s.num_experts, s.max_rows, "pack"), s.hidden});
    return b;
  }
};

void check(const PackShape& s) {
  SWITCHYARD_REQUIRE(
      s.max_rows >= 0 && s.top_k >= 1 && s.num_experts >= 1 && s.hidden >= 8 && s.hidden % 8 == 0,
      ShapeMismatch, "pack_by_expert: max_rows=", s.max_rows, ", top_k=", s.top_k,
      ", num_experts=", s.num_experts, ", hidden=", s.hidden,
      ", need rows of a multiple of 8 numbers, experts and choices. Pass those of the "
      "dispatcher's config.");
}

}  // namespace

size_t pack_by_expert_bytes(const PackShape& shape) {
  check(shape);
  Arena arena({});
  PackBuffers::take(arena, shape);
  return arena.bytes();
}

ExpertRows pack_by_expert(Backend& backend, const ReceivedRows& rows, const PackShape& shape,
                          Workspace workspace, Tensor status, CUstream_st* stream) {
  return as_errors("pack_by_expert", [&] {
    check(shape);
    SWITCHYARD_REQUIRE(
        rows.source.rows.dtype == DType::Bf16 && rows.source.rows.dim(1) == shape.hidden,
        ShapeMismatch, "pack_by_expert: rows are not bf16 [R, ", shape.hidden,
        "]. Dispatch rows of this width as bf16.");
    SWITCHYARD_REQUIRE(rows.ids.dim(0) <= shape.max_rows && rows.ids.dim(1) == shape.top_k,
                       ShapeMismatch, "pack_by_expert: ids are not i32 [", shape.max_rows, ", ",
                       shape.top_k, "] or fewer rows of it. Pass max_rows of the dispatcher.");
    Arena arena(workspace, backend.kind());
    PackBuffers b = PackBuffers::take(arena, shape);
    arena.require_memory("pack_by_expert");
    ExpertRows packed = b.packed;
    packed.row_of_slot = packed.row_of_slot.rows(0, rows.ids.dim(0));
    backend.ops().run(PlanRows{.layout = Layout::Masked,
                               .capacity = shape.max_rows,
                               .groups = {packed.counts, b.first_row},
                               .row_of_slot = packed.row_of_slot,
                               .slot_of_row = {},
                               .row_expert = {},
                               .scratch = b.scratch,
                               .ids = rows.ids,
                               .num_rows = rows.num_rows,
                               .notes_bad_ids = rows.ids_are_given,
                               .status = status},
                      stream);
    backend.ops().run(ScatterRows{packed.rows, rows.source, packed.row_of_slot, rows.num_rows},
                      stream);
    packed.rows.shape = {shape.num_experts, shape.max_rows, shape.hidden};
    return packed;
  });
}

}  // namespace switchyard
