// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/exchange_slots.h -- the busiest rank of a layer exchanges replicas with others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace switchyard {

// Slots of a layer, as many on each rank, and ranks of a node, which exchange among themselves.
struct SlotShape {
  size_t rank_slots, node_ranks;
};

struct Exchange {
  size_t of_busiest = 0, of_other = 0;  // slots
  double gain = 0;                      // by which the larger load falls, of the busiest's
};

class Exchanges {
 public:
  // Of the busiest rank's load: sums in another order differ by less.
  static constexpr double kWorthIt = 1e-9;

  // slots: the expert in each; loads: [E] of each replica of an expert.
  Exchanges(std::span<int32_t> slots, std::span<const double> loads, SlotShape shape);

  // All that help, the best one first.
  void run();
  // The first of the best; without gain where none helps.
  Exchange best();
  // That were looked at so far.
  size_t num_pairs() const { return num_pairs_; }

 private:
  // Pairs that are looked at. 256 experts on 8 ranks take 1e5; 2^26 are 0.1 s.
  static constexpr size_t kMostPairs = size_t{1} << 26;

  std::span<const int32_t> slots_of(size_t rank) const {
    return slots_.subspan(rank * shape_.rank_slots, shape_.rank_slots);
  }
  void mark(std::vector<bool>& on, size_t rank, bool held) const;
  void look_at(size_t busiest, size_t other, Exchange& best);

  std::span<int32_t> slots_;
  std::span<const double> loads_;
  SlotShape shape_;
  std::vector<double> rank_loads_;
  std::vector<bool> on_busiest_, on_other_;  // [E] does the rank hold it?
  size_t num_pairs_ = 0;
};

}  // namespace switchyard
