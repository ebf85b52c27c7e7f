// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/plan.h -- public: what a layer moves and takes when its experts are spread
// over P ranks on N nodes, before anybody rents the machines.
#pragma once

#include <cstdint>
#include <vector>

#include "switchyard/config.h"

namespace [[gnu::visibility("default")]] switchyard {

/// What a GPU and its ports reach: the one place where a plan is calibrated. A rank is a GPU with a
/// network card of its own. Of several ranks two and four of one host were measured
/// (docs/decisions/0053).
struct ClusterRates {
  /// Per GPU and direction. Pushes of 34 to 59 MB between two H100s in both directions at once
  /// reached 342 to 352, 2026-11, of 93 to 186 MB among four H200s 355.
  double nvlink_gbps = 347;
  /// Per GPU and direction. Nominal: a 400 Gb/s card carries 50, its protocols leave about 45. Not
  /// measured yet.
  double network_gbps = 45;
  /// The ranks of a node tell each other something and wait for all, launches of kernels included:
  /// a dispatch of one token between two H100s took 14, a combine 13, 2026-11; among four H200s
  /// both took 12. More ranks: not measured yet.
  double nvlink_meeting_us = 13;
  /// The same over the network, and what each rank beyond the node adds. Nominal, not measured yet;
  /// together they are the 26 us by which DeepEP's published low-latency dispatch over 256 GPUs
  /// (194 us for 7.6 MB) exceeds its bytes at the rate above.
  double network_meeting_us = 14;
  double network_peer_us = 0.05;
  /// As describe_device says of a GPU. The cost model reaches 0.95 of both in GEMMs and 0.7 of the
  /// reads where rows move: fitted on one H100 (docs/decisions/0026).
  double gemm_tflops = 780;
  double read_gbps = 3000;
};

struct PlanRequest {
  MoeConfig config;
  int num_ranks = 1;   // P, a divisor of E
  int num_nodes = 1;   // N, a divisor of P; consecutive ranks share a node
  int64_t tokens = 0;  // T, of every rank
  /// [E] how often each expert was chosen, in any unit, expert_counts of `switchyard run --json`
  /// say; empty: all alike. Every rank's tokens choose like that.
  std::vector<double> expert_counts;
  ClusterRates rates;
};

/// Of a number that differs between ranks.
struct Spread {
  double max = 0;
  double mean = 0;
};

/// What passes the ports of a GPU. What a rank keeps for itself passes none.
struct Traffic {
  Spread nvlink_sent, nvlink_received, network_sent, network_received;
};

/// What a time waits for.
enum class PlanBound {
  Nothing,  // one rank: nothing moves
  NvlinkSent,
  NvlinkReceived,
  NetworkSent,
  NetworkReceived,
  Meetings,  // of ranks that tell each other counts, or that rows are there
  Flops,
  WeightReads,
  RowMoves,  // scatter and gather in the memory of the GPU
  Launches,
};
/// "NVLink sent", "network received", "meetings", "weight reads", ...; never null.
const char* bound_name(PlanBound bound) noexcept;

/// Rows there, or partial rows back: max over ports of bytes / rate, and the meetings before it.
struct RowMove {
  Traffic rows;
  Traffic bytes;  // dispatch: with ids, weights and the counts before them
  double meetings_us = 0;
  double us = 0;
  PlanBound bound = PlanBound::Nothing;  // the longest part
};

/// The experts of the rank that takes longest; all others wait for it.
struct ExpertTime {
  int rank = 0;
  double rows = 0;            // received, its own included
  double slots = 0;           // (token, k) of its experts
  double mean_slots = 0;      // over the ranks
  double active_experts = 0;  // of its E / P, those that some token chose
  double us = 0;              // by the cost model of `explain`, fitted on one H100
  PlanBound bound = PlanBound::Nothing;
};

/// A layer with one dispatcher. Nothing overlaps: us is the sum of the three. The gate and shared
/// experts are left out.
struct DispatcherPlan {
  RowMove dispatch;
  ExpertTime experts;
  RowMove combine;
  double us = 0;
  PlanBound bound = PlanBound::Nothing;  // of the longest of the three
};

struct RankPlan {
  double ranks_per_token = 0;        // that own one of its experts
  double remote_rows_per_token = 0;  // ranks other than its own, mean over where it is at home
  double remote_nodes_per_token = 0;
  /// The dispatcher `normal`: a row once to every rank that owns one of its experts, wherever that
  /// is. Over the network it is a plan, too: on GPUs it runs inside one node so far.
  DispatcherPlan normal;
  /// Not provided, to compare with: a row crosses the network once per node, to the rank with the
  /// same number there, which pushes it on over NVLink; partial rows are summed on their way back.
  DispatcherPlan two_level;
  /// The baseline: every row to every rank, partial rows summed on their way back. At its best: it
  /// reaches the same rates, and a row crosses the network once per node. NCCL was seen to reach
  /// half of them.
  DispatcherPlan all_gather;
  /// Memory of a rank's window in `normal`, which holds T rows from everyone and T partial rows for
  /// everyone, whatever the routing.
  int64_t window_bytes = 0;
};

/// Pure: no device, no clock, no drawn numbers. Numbers are expectations over tokens that choose
/// K different experts as often as expert_counts say, and otherwise at random (groups of the gate
/// are kept); few tokens scatter around them.
///
/// Throws Error(ShapeMismatch): ranks, nodes, tokens or rates that break the rules above, sizes
/// that do not fit 63 bits. Error(BadRouting): counts that are not E non-negative numbers, that are
/// all zero, that give an expert more than every token, or that the gate's groups cannot have.
RankPlan plan_ranks(const PlanRequest& request);

}  // namespace switchyard
