// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/exchange_slots.cc
#include "strategy/exchange_slots.h"

#include <algorithm>
#include <utility>

namespace switchyard {

Exchanges::Exchanges(std::span<int32_t> slots, std::span<const double> loads, SlotShape shape)
    : slots_(slots),
      loads_(loads),
      shape_(shape),
      rank_loads_(slots.size() / shape.rank_slots, 0),
      on_busiest_(loads.size(), false),
      on_other_(loads.size(), false) {
  for (size_t s = 0; s < slots.size(); ++s) rank_loads_[s / shape.rank_slots] += loads[slots[s]];
}

void Exchanges::run() {
  for (Exchange pair = best(); pair.gain > kWorthIt; pair = best()) {
    int32_t &a = slots_[pair.of_busiest], &b = slots_[pair.of_other];
    const double moved = loads_[a] - loads_[b];
    rank_loads_[pair.of_busiest / shape_.rank_slots] -= moved;
    rank_loads_[pair.of_other / shape_.rank_slots] += moved;
    std::swap(a, b);
  }
}

Exchange Exchanges::best() {
  const auto max = std::ranges::max_element(rank_loads_);
  const auto busiest = static_cast<size_t>(max - rank_loads_.begin());
  const size_t node = busiest / shape_.node_ranks * shape_.node_ranks;
  Exchange pair;
  mark(on_busiest_, busiest, true);
  for (size_t other = node; other < node + shape_.node_ranks; ++other) {
    if (rank_loads_[other] >= *max) continue;  // the busiest itself, too
    num_pairs_ += shape_.rank_slots * shape_.rank_slots;
    if (num_pairs_ > kMostPairs) break;
    look_at(busiest, other, pair);
  }
  mark(on_busiest_, busiest, false);
  return pair;
}

void Exchanges::mark(std::vector<bool>& on, size_t rank, bool held) const {
  for (const int32_t e : slots_of(rank)) on[e] = held;
}

void Exchanges::look_at(size_t busiest, size_t other, Exchange& best) {
  const size_t size = shape_.rank_slots;
  const double most = rank_loads_[busiest], less = rank_loads_[other];
  mark(on_other_, other, true);
  for (size_t a = busiest * size; a < (busiest + 1) * size; ++a) {
    if (on_other_[slots_[a]]) continue;
    for (size_t b = other * size; b < (other + 1) * size; ++b) {
      const double moved = loads_[slots_[a]] - loads_[slots_[b]];
      const double gain = std::min(moved, most - less - moved) / most;
      if (gain > best.gain && !on_busiest_[slots_[b]]) best = {a, b, gain};
    }
  }
  mark(on_other_, other, false);
}

}  // namespace switchyard
