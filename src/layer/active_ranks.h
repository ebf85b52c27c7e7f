// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/active_ranks.h -- ranks that calls go on with, once others are lost: a bit each.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace switchyard {

// Of the active ones, those named. Throws Error(ShapeMismatch) for one that is not active, and where
// rank `own` is not named.
uint64_t remaining_ranks(std::span<const int32_t> named, uint64_t active, int own, int num_ranks);

// -1 in place of an expert that has slots on active ranks, too, in each slot of another rank.
void drop_unreachable(std::vector<int32_t>& expert_of_slot, int64_t num_experts, int num_ranks,
                      uint64_t active);

}  // namespace switchyard
