// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/slot_table.cc
#include "layer/slot_table.h"

#include <algorithm>

#include "base/require.h"
#include "plan/index.h"
#include "switchyard/config.h"

namespace switchyard {

void check_slot_count(const char* operation, int64_t num_slots, int num_ranks) {
  SWITCHYARD_REQUIRE(num_slots % num_ranks == 0, ShapeMismatch, operation, ": placement has ",
                     num_slots, " slots on ", num_ranks,
                     " ranks, each must have as many. Pass a multiple of the ranks.");
  SWITCHYARD_REQUIRE(num_slots <= kMaxExperts, ShapeMismatch, operation, ": placement has ",
                     num_slots, " slots, at most ", kMaxExperts, ". Have fewer replicas.");
}

void check_placement(const char* operation, std::span<const int32_t> expert_of_slot,
                     int64_t num_experts) {
  std::vector<bool> has_slot(static_cast<size_t>(num_experts));
  for (size_t s = 0; s < expert_of_slot.size(); ++s) {
    const int32_t expert = expert_of_slot[s];
    SWITCHYARD_REQUIRE(is_valid_id(expert, num_experts), ShapeMismatch, operation, ": placement[",
                       s, "]=", expert, ", need an expert of 0 to ", num_experts - 1,
                       " or -1 for none. Pass global ids.");
    if (expert >= 0) has_slot[static_cast<size_t>(expert)] = true;
  }
  const auto missing = std::ranges::find(has_slot, false);
  SWITCHYARD_REQUIRE(missing == has_slot.end(), ShapeMismatch, operation, ": placement of ",
                     expert_of_slot.size(), " slots has no expert ", missing - has_slot.begin(),
                     ", each of ", num_experts, " needs a slot. Give it one.");
}

std::vector<int32_t> slot_table(std::span<const int32_t> expert_of_slot, int64_t num_experts) {
  const auto e = static_cast<size_t>(num_experts);
  std::vector<int32_t> table(e + 1, 0);
  for (const int32_t expert : expert_of_slot)
    if (expert >= 0) ++table[static_cast<size_t>(expert) + 1];
  for (size_t i = 1; i <= e; ++i) table[i] += table[i - 1];
  table.resize(e + 1 + expert_of_slot.size(), -1);
  std::vector<int32_t> next(table.begin(), table.begin() + num_experts);
  for (size_t s = 0; s < expert_of_slot.size(); ++s)
    if (const int32_t expert = expert_of_slot[s]; expert >= 0)
      table[e + 1 + static_cast<size_t>(next[static_cast<size_t>(expert)]++)] =
          static_cast<int32_t>(s);
  return table;
}

int32_t active_word(std::span<const int32_t> table, int index) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (const int32_t word : table) hash = (hash ^ static_cast<uint32_t>(word)) * 16777619u;
  return static_cast<int32_t>((hash & 0x3fffffffu) << 1) | index;
}

}  // namespace switchyard
