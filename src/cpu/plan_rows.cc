// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/plan_rows.cc -- a stable counting sort of slots by expert: count, prefix sum, place. One
// pass of 8 bytes per slot and one of 8 per buffer row; it stays far below the GEMMs, so it is one
// thread.
#include "cpu/rows.h"

namespace switchyard::cpu {
namespace {

// counts[e] = slots of expert e; more than `capacity` (masked) are noted and cut.
void count_slots(const PlanRows& plan, const int32_t* ids, int64_t num_slots, int rank,
                 StatusWords& status) {
  auto* counts = plan.groups.counts.as<int32_t>();
  const int64_t num_experts = plan.groups.counts.count();
  std::fill_n(counts, num_experts, 0);
  for (int64_t s = 0; s < num_slots; ++s)
    if (is_expert(ids[s], num_experts)) ++counts[ids[s]];
  if (plan.layout == Layout::Contiguous) return;
  for (int64_t e = 0; e < num_experts; ++e) {
    if (counts[e] <= plan.capacity) continue;
    note(status, Errc::BadRouting, StatusDetail::MaskedOverflow, rank, counts[e]);
    counts[e] = static_cast<int32_t>(plan.capacity);
  }
}

void place_groups(const PlanRows& plan) {
  const auto* counts = plan.groups.counts.as<int32_t>();
  auto* first = plan.groups.first_row.as<int64_t>();
  const int64_t num_experts = plan.groups.counts.count();
  if (plan.groups.next_step.present()) *plan.groups.next_step.as<int32_t>() = 0;
  first[0] = 0;
  for (int64_t e = 0; e < num_experts; ++e)
    first[e + 1] =
        first[e] +
        (plan.layout == Layout::Masked ? plan.capacity : padded_count(counts[e], plan.alignment));
}

}  // namespace

template <>
void run(const PlanRows& op, const Context&) {
  const int64_t top_k = op.ids.dim(1), num_experts = op.groups.counts.count();
  const int64_t num_rows = op.num_rows.present() ? op.num_rows.as<int32_t>()[0] : op.ids.dim(0);
  const int64_t num_slots = num_rows * top_k;
  const auto* id = op.ids.as<int32_t>();
  for (int64_t s = 0; op.notes_bad_ids && s < num_slots; ++s)
    check_id(op.status, id[s], num_experts, op.rank);
  count_slots(op, id, num_slots, op.rank, *op.status.as<StatusWords>());
  place_groups(op);

  auto* row_of_slot = op.row_of_slot.as<int32_t>();
  auto* slot_of_row = op.slot_of_row.as<int32_t>();  // null: not wanted
  auto* row_expert = op.row_expert.as<int32_t>();
  std::fill_n(row_of_slot, op.row_of_slot.count(), kNoRow);
  std::fill_n(slot_of_row, op.slot_of_row.count(), kNoRow);
  std::fill_n(row_expert, op.row_expert.count(), kNoExpert);

  // counts doubles as the cursor: it restarts at 0 and ends where count_slots left it.
  auto* placed = op.groups.counts.as<int32_t>();
  const auto* first = op.groups.first_row.as<int64_t>();
  std::fill_n(placed, num_experts, 0);
  for (int64_t s = 0; s < num_slots; ++s) {
    if (!is_expert(id[s], num_experts)) continue;
    const int32_t e = id[s];
    if (op.layout == Layout::Masked && placed[e] == op.capacity) continue;
    const int64_t row = first[e] + placed[e]++;
    row_of_slot[s] = static_cast<int32_t>(row);
    if (slot_of_row) slot_of_row[row] = static_cast<int32_t>(s);
    if (row_expert) row_expert[row] = e;
  }
}

}  // namespace switchyard::cpu
