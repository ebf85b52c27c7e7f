// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/placed_layer.h -- placements drawn at random, and which slot an id goes to, written
// down once more.
#pragma once

#include <algorithm>
#include <bit>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "switchyard/layer.h"
#include "testing/buffer.h"

namespace switchyard::testing {

// Every expert once, then replicas of any and slots without one, in any order.
inline std::vector<int32_t> random_slots(int64_t num_experts, int64_t num_slots, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<int32_t> slots(static_cast<size_t>(num_slots));
  for (size_t s = 0; s < slots.size(); ++s)
    slots[s] = static_cast<int64_t>(s) < num_experts
                   ? static_cast<int32_t>(s)
                   : static_cast<int32_t>(rng() % static_cast<uint64_t>(num_experts + 1)) - 1;
  std::ranges::shuffle(slots, rng);
  return slots;
}

inline std::span<const int32_t> slots_of_rank(std::span<const int32_t> slots, int num_ranks,
                                              int rank) {
  const size_t each = slots.size() / static_cast<size_t>(num_ranks);
  return slots.subspan(static_cast<size_t>(rank) * each, each);
}

// The weights of one rank, drawn as random_weights draws those of all experts.
inline LayerWeights placed_weights(const MoeConfig& config, std::span<const int32_t> slots,
                                   int num_ranks, int rank, uint64_t seed) {
  return weights_of_slots(random_weights(config, 1, 0, seed),
                          slots_of_rank(slots, num_ranks, rank));
}

inline uint32_t finalize(uint32_t h) {
  h ^= h >> 16;
  h *= 0x85ebca6b;
  h ^= h >> 13;
  h *= 0xc2b2ae35;
  h ^= h >> 16;
  return h;
}

// docs/guide/placement.md, "Which replica".
inline int32_t expected_slot(std::span<const int32_t> slots, int32_t expert, uint32_t key) {
  std::vector<int32_t> replicas;
  for (size_t s = 0; s < slots.size(); ++s)
    if (slots[s] == expert) replicas.push_back(static_cast<int32_t>(s));
  if (expert < 0 || replicas.empty()) return -1;
  const uint64_t hash = finalize(finalize(key) + static_cast<uint32_t>(expert));
  return replicas[static_cast<size_t>(hash * replicas.size() >> 32)];
}

// [T, K] of tokens from `first` on. by_token: ranks hold the same tokens.
inline Buffer<int32_t> expected_slots(std::span<const int32_t> slots, const Buffer<int32_t>& ids,
                                      const Buffer<float>& weights, bool by_token) {
  Buffer<int32_t> placed(ids.view().shape);
  const int64_t top_k = ids.view().dim(1);
  for (int64_t i = 0; i < ids.count(); ++i)
    placed[i] = expected_slot(
        slots, ids[i],
        by_token ? static_cast<uint32_t>(i / top_k) : std::bit_cast<uint32_t>(weights[i]));
  return placed;
}

}  // namespace switchyard::testing
