// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/adjust_slots.cc
#include "strategy/adjust_slots.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace switchyard {
namespace {

// A layer as it is between two changes.
class Adjustment {
 public:
  Adjustment(std::span<int32_t> slots, std::span<const double> loads, SlotShape shape)
      : slots_(slots), loads_(loads), shape_(shape) {
    count();
  }

  double busiest() const { return rank_loads_[busiest_]; }

  // Whether anything helped.
  bool change() {
    if (num_pairs_ > kMostPairs) return false;
    Exchanges exchanges(slots_, shares_, shape_);
    const Exchange exchange = exchanges.best();
    num_pairs_ += exchanges.num_pairs();
    const Replica replica = best_replica();
    if (std::max(exchange.gain, replica.gain) <= Exchanges::kWorthIt) return false;
    if (replica.gain > exchange.gain)
      slots_[replica.slot] = replica.expert;
    else
      std::swap(slots_[exchange.of_busiest], slots_[exchange.of_other]);
    count();
    return true;
  }

 private:
  // A slot that gets another replica of an expert of the busiest rank.
  struct Replica {
    size_t slot = 0;
    int32_t expert = 0;
    double gain = 0;  // as of an exchange
  };

  // That are looked at: of two slots, or of a slot and an expert. 288 slots on 32 ranks take 3000 a
  // change.
  static constexpr size_t kMostPairs = size_t{1} << 24;

  size_t rank_of(size_t slot) const { return slot / shape_.rank_slots; }

  void count() {
    slots_of_.assign(loads_.size(), {});
    for (size_t s = 0; s < slots_.size(); ++s) slots_of_[slots_[s]].push_back(s);
    shares_.resize(loads_.size());
    for (size_t e = 0; e < loads_.size(); ++e)
      shares_[e] = loads_[e] / static_cast<double>(slots_of_[e].size());
    rank_loads_.assign(slots_.size() / shape_.rank_slots, 0);
    for (size_t s = 0; s < slots_.size(); ++s) rank_loads_[rank_of(s)] += shares_[slots_[s]];
    busiest_ = static_cast<size_t>(std::ranges::max_element(rank_loads_) - rank_loads_.begin());
  }

  bool holds(size_t rank, int32_t expert) const {
    return std::ranges::any_of(slots_of_[expert], [&](size_t s) { return rank_of(s) == rank; });
  }

  Replica best_replica() {
    const size_t node_slots = shape_.node_ranks * shape_.rank_slots;
    const size_t node = busiest_ / shape_.node_ranks * node_slots;
    Replica best;
    for (size_t s = node; s < node + node_slots; ++s) {
      if (slots_of_[slots_[s]].size() < 2) continue;
      num_pairs_ += shape_.rank_slots;
      for (const int32_t expert : slots_.subspan(busiest_ * shape_.rank_slots, shape_.rank_slots)) {
        if (holds(rank_of(s), expert)) continue;
        const double gain = (busiest() - most_with(s, expert)) / busiest();
        if (gain > best.gain) best = {s, expert, gain};
      }
    }
    return best;
  }

  // The most that a rank whose load it changes has to do, once `slot` holds `expert`.
  double most_with(size_t slot, int32_t expert) const {
    const auto shared_by = [&](int32_t e, double slots) { return loads_[e] / slots; };
    const int32_t leaving = slots_[slot];
    const auto num_leaving = static_cast<double>(slots_of_[leaving].size());
    const auto num_coming = static_cast<double>(slots_of_[expert].size());
    const double less = shares_[expert] - shared_by(expert, num_coming + 1);
    const double more = shared_by(leaving, num_leaving - 1) - shares_[leaving];
    const auto load_of = [&](size_t rank) {
      double load = rank_loads_[rank];
      if (rank == rank_of(slot)) return load - shares_[leaving] + shared_by(expert, num_coming + 1);
      if (holds(rank, expert)) load -= less;
      if (holds(rank, leaving)) load += more;
      return load;
    };
    double most = load_of(rank_of(slot));
    for (const int32_t e : {expert, leaving})
      for (const size_t s : slots_of_[e]) most = std::max(most, load_of(rank_of(s)));
    return most;
  }

  std::span<int32_t> slots_;
  std::span<const double> loads_;
  SlotShape shape_;
  std::vector<std::vector<size_t>> slots_of_;  // [E]
  std::vector<double> shares_, rank_loads_;
  size_t busiest_ = 0, num_pairs_ = 0;
};

}  // namespace

bool adjust_slots(std::span<int32_t> slots, std::span<const double> loads, SlotShape shape,
                  double target) {
  Adjustment layer(slots, loads, shape);
  for (size_t changes = 0; layer.busiest() > target; ++changes)
    if (changes == slots.size() || !layer.change()) return false;
  return true;
}

}  // namespace switchyard
