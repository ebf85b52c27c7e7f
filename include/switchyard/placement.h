// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/placement.h -- public: which rank holds which experts, and which experts more
// than once, so that all ranks have as much to do.
//
// A rank has S / P *weight slots*, places for the weights of one expert each. They are numbered over
// all ranks: slot s is on rank s / (S / P). A slot number is also called a physical expert, the id
// that the gate chooses a logical one. More slots than experts leave room for *replicas*: the slots
// of one expert share its load evenly.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "switchyard/tensor.h"

namespace [[gnu::visibility("default")]] switchyard {

struct PlacementRequest {
  int64_t num_layers = 1;   // L, each planned by itself
  int64_t num_experts = 0;  // E <= kMaxExperts, of each layer
  /// [L, E] what each expert has to do, in any unit: how many tokens chose it, say. A layer of
  /// zeros is planned as if all its experts were alike.
  std::vector<double> loads;
  int64_t num_slots = 0;   // S of a layer, over all ranks: a multiple of P, from E to E * P
  int num_ranks = 1;       // P
  int num_nodes = 1;       // N, a divisor of P; consecutive ranks share a node
  int64_t num_groups = 1;  // G of the gate, a divisor of E; consecutive experts are a group
  /// [L, S] the expert that each slot holds now, -1: none; each expert is in a slot. Empty: slots hold
  /// nothing yet. Then what is planned keeps experts in their slots where it can.
  std::vector<int32_t> current{};
};

/// Flat tables, row-major, as a device reads them: at most 2^31 - 1 entries each.
struct Placement {
  int64_t num_layers = 0, num_experts = 0, num_slots = 0;
  int num_ranks = 0;
  int64_t max_replicas = 0;  // C: of any expert of any layer, at most P
  /// A group is on one node. Else any expert may be on any rank; `reason` says why.
  bool hierarchical = false;
  std::string reason;                        // one line
  std::vector<int32_t> physical_to_logical;  // [L, S] the expert in each slot
  std::vector<int32_t> replica_counts;       // [L, E] from 1 to C
  std::vector<int32_t> logical_to_physical;  // [L, E, C] slots of an expert, rising; then -1
  std::vector<double> rank_loads;            // [L, P] in the unit of the loads
  std::vector<double> rank_loads_before;     // [L, P] of `current`, else of experts in their order
  std::vector<double> imbalance;             // [L] the busiest rank's load over the mean, from 1 on
  std::vector<double> imbalance_before;      // [L]
  std::vector<int64_t> num_moves;  // [L] slots whose weights change; empty without `current`
};

/// Each layer in four steps, and a fifth where slots hold experts already:
///
/// 1. Groups go to nodes, G / N to each: the busiest first, to the node with the least load. Where a
///    node gets one group, node i gets group i.
/// 2. Every expert of a node has one replica. Each further slot of the node goes to the expert whose
///    replicas have the most load each.
/// 3. Replicas go to the ranks of their node, S / P to each: the busiest first, to the rank with the
///    least load. Where a rank has one slot, it gets the replica of its number.
/// 4. While the busiest rank can exchange a replica with another rank of its node so that both end
///    with less load than it had, the pair that leaves the least does (at most 2^26 pairs of a layer
///    are looked at).
/// 5. From what slots hold, the busiest rank exchanges replicas as in step 4, or a slot of an expert
///    with several gets another replica of one of its experts, whatever helps it most, until no rank
///    has more than 1 % beyond the busiest of steps 1 to 4 (at most 2^24 pairs are looked at). Where that is not reached, or moves
///    more, the plan of steps 1 to 4: its nodes and ranks take the places of those that hold the most
///    of their experts, and an expert that stays on a rank keeps its slot.
///
/// Of equal loads the lowest index comes first, so equal requests give equal tables everywhere.
/// Steps 1 to 3 are those of DeepSeek's EPLB (github.com/deepseek-ai/EPLB), whose published plan
/// this returns; step 4 and the next rule are not in it.
///
/// No rank holds an expert twice: an expert has no more replicas than its node has ranks, and step 3
/// passes over a rank that holds it; where no other has room, a replica of a full one moves there
/// and makes room. That is possible wherever a rank has no more slots than experts to
/// choose from. On a node those are E / N: with more slots, or if N does not divide G, nodes and
/// groups are ignored (not `hierarchical`). More than E slots of a rank are refused.
///
/// Every slot is filled, as an engine allocates them all. With a handful of experts that can cost
/// balance: loads 4, 1, 3, 2 are even on two ranks with four slots, and cannot be with six.
///
/// Pure: no device, no clock, no drawn numbers. Per layer about S log S steps, and for each exchange
/// (S / P)^2 for each rank of the node.
///
/// Throws Error(ShapeMismatch): sizes that break the rules above, or tables that do not fit.
/// Error(BadRouting): loads that are negative or not finite, or that add up to more than 1e300.
Placement plan_placement(const PlacementRequest& request);

/// What stands on a device between the ids of a gate and weight slots; kernels that write ids read
/// it. A layer has one of its own (LayerOptions::placement).
///
/// Of an expert's slots each (token, k) takes one by a hash of the expert and of the bits of its
/// weight: whatever else is in the batch, and wherever the token stands. With `by_token` the hash is
/// of the token's index instead.
struct SlotTables {
  int64_t num_experts = 0;  // E
  /// i32 [1]: 2 f + i, where tables[i] is in use, and f is a number of its contents that ranks
  /// compare. Absent: ids stay those of the gate
  ConstTensor active{};
  /// i32 [2, E + 1 + S]: where each expert's slots begin, and where the last one's end; then slots
  ConstTensor tables{};
  Tensor loads{};         // i64 [E] += how often each expert was chosen; absent: not counted
  bool by_token = false;  // for ranks that all hold all tokens: they must choose alike

  bool present() const { return active.present() || loads.present(); }
};

}  // namespace switchyard
