// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/active_ranks.cc
#include "layer/active_ranks.h"

#include "base/peer_control.h"
#include "base/require.h"

namespace switchyard {

uint64_t remaining_ranks(std::span<const int32_t> named, uint64_t active, int own, int num_ranks) {
  uint64_t remaining = 0;
  for (const int32_t rank : named) {
    SWITCHYARD_REQUIRE(rank >= 0 && rank < num_ranks && has_rank(active, rank), ShapeMismatch,
                       "set_active_ranks: rank=", rank, ", need ranks below ", num_ranks,
                       " that were not left out before. Make a new layer to have one again.");
    remaining |= rank_bit(rank);
  }
  SWITCHYARD_REQUIRE(has_rank(remaining, own), ShapeMismatch, "set_active_ranks: rank ", own,
                     " calls it and is not named. Name each rank that goes on.");
  return remaining;
}

void drop_unreachable(std::vector<int32_t>& expert_of_slot, int64_t num_experts, int num_ranks,
                      uint64_t active) {
  const size_t per_rank = expert_of_slot.size() / static_cast<size_t>(num_ranks);
  const auto is_reachable = [&](size_t slot) {
    return has_rank(active, static_cast<int>(slot / per_rank));
  };
  std::vector<bool> stays(static_cast<size_t>(num_experts));
  for (size_t s = 0; s < expert_of_slot.size(); ++s)
    if (const int32_t expert = expert_of_slot[s]; expert >= 0 && is_reachable(s))
      stays[static_cast<size_t>(expert)] = true;
  for (size_t s = 0; s < expert_of_slot.size(); ++s)
    if (int32_t& expert = expert_of_slot[s];
        expert >= 0 && !is_reachable(s) && stays[static_cast<size_t>(expert)])
      expert = -1;
}

}  // namespace switchyard
