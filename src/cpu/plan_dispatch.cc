// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/plan_dispatch.cc -- from expert ids to ranks, and from global ids to local ones.
#include "cpu/rows.h"
#include "cpu/slot_tables.h"

namespace switchyard::cpu {
namespace {

bool has_expert_on(const int32_t* ids, int64_t top_k, int64_t num_experts, int64_t experts_per_rank,
                   int64_t rank) {
  return std::any_of(ids, ids + top_k, [&](int32_t id) {
    return is_expert(id, num_experts) && owner_of(id, experts_per_rank) == rank;
  });
}

int64_t resolved_id(const ResolveIds& op, int64_t i) {
  const int64_t id = op.src.dtype == DType::I32 ? op.src.as<int32_t>()[i] : op.src.as<int64_t>()[i];
  return op.map.present() && is_expert(id, op.map.dim(0)) ? op.map.as<int32_t>()[id] : id;
}

}  // namespace

template <>
void run(const ResolveIds& op, const Context&) {
  auto* to = op.dst.as<int32_t>();
  const SlotsView slots(op.slots);
  for (int64_t i = 0; i < op.src.count(); ++i) {
    int64_t id = resolved_id(op, i);
    if (op.ignores_out_of_range && !is_expert(id, op.num_experts)) id = kNoExpert;
    check_id(op.status, id, op.num_experts, op.rank);
    to[i] = id < INT32_MIN || id > INT32_MAX ? INT32_MIN : static_cast<int32_t>(id);
    if (op.slots.present())
      to[i] = place_id(slots, to[i], i / op.src.dim(1), op.weights.as<float>()[i]);
  }
}

template <>
void run(const PlanDispatch& op, const Context&) {
  const int64_t num_tokens = op.ids.dim(0), top_k = op.ids.dim(1),
                experts_per_rank = experts_of_rank(op.num_experts, op.num_ranks);
  const auto* id = op.ids.as<int32_t>();
  auto* send_rows = op.send_rows.as<int32_t>();
  auto* send_counts = op.send_counts.as<int32_t>();
  auto* return_row = op.return_row.as<int32_t>();
  std::fill_n(send_counts, op.num_ranks, 0);
  std::fill_n(return_row, op.return_row.count(), kNoRow);

  for (int64_t s = 0; s < op.ids.count(); ++s) check_id(op.status, id[s], op.num_experts, op.rank);
  if (!op.status.as<StatusWords>()->good()) return;

  int32_t sent = 0;
  for (int32_t p = 0; p < op.num_ranks; ++p)
    for (int64_t t = 0; t < num_tokens; ++t) {
      if (!has_expert_on(id + t * top_k, top_k, op.num_experts, experts_per_rank, p)) continue;
      return_row[t * op.num_ranks + p] = sent;
      send_rows[sent++] = static_cast<int32_t>(t);
      ++send_counts[p];
    }
}

template <>
void run(const LocalizeIds& op, const Context&) {
  const int64_t rows = op.num_rows.present() ? op.num_rows.as<int32_t>()[0] : op.src.dim(0);
  const auto* from = op.src.as<int32_t>();
  auto* to = op.dst.as<int32_t>();
  for (int64_t i = 0; i < rows * op.src.dim(1); ++i) {
    check_id(op.status, from[i], op.num_experts, op.rank);
    const int64_t local = from[i] - op.first;
    to[i] = local >= 0 && local < op.num_local ? static_cast<int32_t>(local) : kNoExpert;
  }
}

}  // namespace switchyard::cpu
