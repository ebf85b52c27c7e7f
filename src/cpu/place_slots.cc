// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/place_slots.cc
#include "cpu/run.h"
#include "plan/index.h"

namespace switchyard::cpu {

template <>
void run(const PlaceSlots& op, const Context&) {
  const int64_t top_k = op.ids.dim(1), num_ranks = op.return_row.dim(1);
  const int64_t per_rank = experts_of_rank(op.num_experts, num_ranks);
  for (int64_t s = 0; s < op.ids.count(); ++s) {
    const int32_t id = op.ids.as<int32_t>()[s];
    const int64_t t = s / top_k;
    op.dst.as<int32_t>()[s] =
        is_expert(id, op.num_experts)
            ? static_cast<int32_t>(
                  op.return_row.as<int32_t>()[t * num_ranks + owner_of(id, per_rank)] * top_k +
                  s % top_k)
            : kNoRow;
  }
}

}  // namespace switchyard::cpu
