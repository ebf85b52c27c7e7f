// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/keep_slots.cc
#include "strategy/keep_slots.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace switchyard {
namespace {

constexpr size_t kMostPairs = size_t{1} << 22;

// A block, a place for one, and how many experts of the block are there.
struct Pair {
  int64_t common;
  size_t block, place;
};

// The places in which each expert is, rising.
std::unordered_map<int32_t, std::vector<size_t>> places_of(std::span<const int32_t> now,
                                                           size_t size) {
  std::unordered_map<int32_t, std::vector<size_t>> places;
  for (size_t s = 0; s < now.size(); ++s) {
    if (now[s] < 0) continue;
    auto& of_expert = places[now[s]];
    if (of_expert.empty() || of_expert.back() != s / size) of_expert.push_back(s / size);
  }
  return places;
}

std::vector<Pair> pairs_of(std::span<const int32_t> slots, std::span<const int32_t> now,
                           size_t size) {
  const auto places = places_of(now, size);
  std::vector<Pair> pairs;
  std::vector<int64_t> common(slots.size() / size, 0);
  size_t num_looked_at = 0;
  for (size_t block = 0; block < common.size(); ++block) {
    std::ranges::fill(common, 0);
    for (const int32_t expert : slots.subspan(block * size, size)) {
      const auto found = places.find(expert);
      if (found == places.end()) continue;
      num_looked_at += found->second.size();
      if (num_looked_at > kMostPairs) return pairs;
      for (const size_t place : found->second) ++common[place];
    }
    for (size_t place = 0; place < common.size(); ++place)
      if (common[place] > 0) pairs.push_back({common[place], block, place});
  }
  return pairs;
}

// The block for each place.
std::vector<size_t> blocks_of_places(std::vector<Pair> pairs, size_t num_blocks) {
  std::ranges::sort(pairs, {},
                    [](const Pair& p) { return std::tuple(-p.common, p.block, p.place); });
  std::vector<size_t> block_of(num_blocks, num_blocks);
  std::vector<bool> placed(num_blocks, false);
  for (const Pair& p : pairs) {
    if (placed[p.block] || block_of[p.place] != num_blocks) continue;
    block_of[p.place] = p.block;
    placed[p.block] = true;
  }
  size_t next = 0;  // of those that have nothing in common with any free place
  for (size_t& block : block_of) {
    if (block != num_blocks) continue;
    while (placed[next]) ++next;
    block = next++;
  }
  return block_of;
}

void trade_places(std::span<int32_t> slots, std::span<const int32_t> now, size_t size) {
  const auto block_of = blocks_of_places(pairs_of(slots, now, size), slots.size() / size);
  const std::vector<int32_t> before(slots.begin(), slots.end());
  for (size_t place = 0; place < block_of.size(); ++place)
    std::copy_n(before.begin() + static_cast<ptrdiff_t>(block_of[place] * size), size,
                slots.begin() + static_cast<ptrdiff_t>(place * size));
}

}  // namespace

void keep_slots(std::span<int32_t> slots, std::span<const int32_t> now,
                std::span<const int64_t> parts) {
  if (parts.empty()) return;
  const size_t size = slots.size() / static_cast<size_t>(parts.front());
  trade_places(slots, now, size);
  for (size_t at = 0; at < slots.size(); at += size)
    keep_slots(slots.subspan(at, size), now.subspan(at, size), parts.subspan(1));
}

}  // namespace switchyard
