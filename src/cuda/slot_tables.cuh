// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/slot_tables.cuh -- ids become weight slots where they are written: three dependent reads,
// of the word and of a table that stays in L1.
#pragma once

#include "plan/slot_tables.h"

namespace switchyard::cuda {

// What is written for the id of a slot of a token that has this weight. The order in which threads
// count changes no sum.
__device__ __forceinline__ int32_t place_id(const SlotsView& view, int32_t id, int64_t token,
                                            float weight) {
  if (view.loads != nullptr && is_expert(id, view.num_experts))
    atomicAdd(reinterpret_cast<unsigned long long*>(view.loads + id), 1ull);
  if (view.active == nullptr) return id;
  return slot_of(view, id, view.by_token ? static_cast<uint32_t>(token) : __float_as_uint(weight));
}

}  // namespace switchyard::cuda
