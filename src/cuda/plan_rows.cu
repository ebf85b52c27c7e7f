// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/plan_rows.cu
#include "cuda/plan_rows.cuh"

#include <algorithm>
#include <bit>

#include "cuda/run.h"
#include "cuda/shared_memory.h"
#include "plan/capacity.h"

namespace switchyard::cuda {
namespace {

// Rows of slot_of_row and row_expert that one block clears without being noticed.
constexpr int64_t kRowsClearedByOneBlock = 32 * 1024;
// Up to here one block is faster than two kernels.
constexpr int64_t kFewSlots = 2 * kFewSlotsThreads;
constexpr size_t kMostMaskBytes = 64 * 1024;

int64_t rows_to_clear(const PlanRowsParams& p) {
  return p.slot_of_row || p.row_expert ? p.num_buffer_rows : 0;
}

size_t few_slots_bytes(const PlanRowsParams& p) {
  return few_slots_smem_bytes(mask_words(p.num_slots, p.top_k), p.num_experts);
}

void plan_few_slots(PlanRowsParams params, cudaStream_t stream) {
  params.slots_per_block = params.num_slots;
  const int64_t wanted = ceil_div(std::max(params.num_slots, params.num_experts), 2);
  const int64_t threads = std::clamp<int64_t>(align_up(wanted, 32), 128, kFewSlotsThreads);
  allow_smem(plan_few_slots_kernel, few_slots_bytes(params));
  launch(plan_few_slots_kernel, 1, static_cast<unsigned>(threads), few_slots_bytes(params), stream,
         params);
}

template <int kWarps>
void plan_rows_with(PlanRowsParams params, cudaStream_t stream) {
  constexpr int64_t kThreads = kWarps * 32;
  const size_t smem_bytes = plan_rows_smem_bytes(kWarps, params.num_experts);
  const int64_t wanted = std::max(ceil_div(params.num_slots, kThreads),
                                  ceil_div(rows_to_clear(params), kRowsClearedByOneBlock));
  const int64_t blocks = std::min(wanted, kPlanBlocks);
  params.slots_per_block = static_cast<int>(align_up(ceil_div(params.num_slots, blocks), 32));
  launch(count_slots_kernel<kThreads>, blocks, kThreads,
         static_cast<size_t>(params.num_experts) * sizeof(int32_t), stream, params);
  const auto kernel = plan_rows_kernel<kWarps>;
  allow_smem(kernel, smem_bytes);
  launch(kernel, blocks, kThreads, smem_bytes, stream, params);
}

}  // namespace

template <>
void run(const PlanRows& op, cudaStream_t stream) {
  const int64_t num_experts = op.groups.counts.count();
  SWITCHYARD_REQUIRE(op.ids.count() <= INT32_MAX - 32 * 1024, ShapeMismatch,
                     "plan_rows: slots=", op.ids.count(),
                     ", need fewer than 2^31. Use a smaller max_tokens.");
  const PlanRowsParams params{
      .ids = op.ids.as<int32_t>(),
      .num_rows = op.num_rows.present() ? op.num_rows.as<int32_t>() : nullptr,
      .counts = op.groups.counts.as<int32_t>(),
      .first_row = op.groups.first_row.as<int64_t>(),
      .next_step = op.groups.next_step.as<int32_t>(),
      .row_of_slot = op.row_of_slot.as<int32_t>(),
      .slot_of_row = op.slot_of_row.present() ? op.slot_of_row.as<int32_t>() : nullptr,
      .row_expert = op.row_expert.present() ? op.row_expert.as<int32_t>() : nullptr,
      .scratch = op.scratch.as<int32_t>(),
      .tiles = op.groups.tiles.present() ? static_cast<RowTile*>(op.groups.tiles.data) : nullptr,
      .num_tiles = op.groups.tiles.present() ? static_cast<int>(op.groups.tiles.dim(0)) : 0,
      .tile_rows = op.groups.tile_rows,
      .status = op.status.as<int32_t>(),
      .num_buffer_rows = std::max(op.slot_of_row.count(), op.row_expert.count()),
      .alignment = op.alignment,
      .capacity = op.capacity,
      .masked = op.layout == Layout::Masked,
      .notes_bad_ids = op.notes_bad_ids,
      .num_slots = static_cast<int>(op.ids.count()),
      .top_k = static_cast<int>(op.ids.dim(1)),
      .num_experts = static_cast<int>(num_experts),
      .rank = op.rank,
      .expert_bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(num_experts))),
      .slots_per_block = 0};
  if (params.num_slots <= kFewSlots && rows_to_clear(params) <= kRowsClearedByOneBlock &&
      few_slots_bytes(params) <= kMostMaskBytes)
    return plan_few_slots(params, stream);
  // Fewer warps for more experts: their histograms stay within 64 KiB.
  if (num_experts <= 1024)
    plan_rows_with<32>(params, stream);
  else
    plan_rows_with<8>(params, stream);
}

}  // namespace switchyard::cuda
