// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/slot_table.h -- a placement as kernels read it (SlotTables).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace switchyard {

// Throws Error(ShapeMismatch) unless as many slots are on each rank.
void check_slot_count(const char* operation, int64_t num_slots, int num_ranks);
// Throws Error(ShapeMismatch) unless every slot has one of E experts or none, and each has a slot.
void check_placement(const char* operation, std::span<const int32_t> expert_of_slot,
                     int64_t num_experts);

// [E + 1 + S]: where the slots of each expert begin, and those of the last one end; then the slots,
// rising for each expert, and -1 for what no expert has.
std::vector<int32_t> slot_table(std::span<const int32_t> expert_of_slot, int64_t num_experts);

// SlotTables::active once tables[index] has these contents.
int32_t active_word(std::span<const int32_t> table, int index);

}  // namespace switchyard
