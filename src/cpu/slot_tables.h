// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/slot_tables.h
#pragma once

#include <atomic>
#include <bit>

#include "plan/slot_tables.h"

namespace switchyard::cpu {

// What is written for the id of a slot of a token that has this weight. Threads count together.
inline int32_t place_id(const SlotsView& view, int32_t id, int64_t token, float weight) {
  if (view.loads != nullptr && is_expert(id, view.num_experts))
    std::atomic_ref(view.loads[id]).fetch_add(1, std::memory_order_relaxed);
  if (view.active == nullptr) return id;
  return slot_of(view, id,
                 view.by_token ? static_cast<uint32_t>(token) : std::bit_cast<uint32_t>(weight));
}

}  // namespace switchyard::cpu
