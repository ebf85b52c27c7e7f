// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/plan_ranks.cc -- rows, bytes and times of P ranks on N nodes.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/peer_control.h"
#include "plan/buffers.h"
#include "strategy/cost_model.h"
#include "strategy/expert_choice.h"
#include "switchyard/plan.h"

namespace switchyard {
namespace {

void check_rates(const ClusterRates& r) {
  const std::pair<const char*, double> rates[] = {{"nvlink_gbps", r.nvlink_gbps},
                                                  {"network_gbps", r.network_gbps},
                                                  {"gemm_tflops", r.gemm_tflops},
                                                  {"read_gbps", r.read_gbps}};
  for (const auto& [name, value] : rates)
    SWITCHYARD_REQUIRE(std::isfinite(value) && value > 0, ShapeMismatch, "plan: ", name, "=", value,
                       ", must be positive and finite. Give a rate that the machine reaches.");
  const std::pair<const char*, double> times[] = {{"nvlink_meeting_us", r.nvlink_meeting_us},
                                                  {"network_meeting_us", r.network_meeting_us},
                                                  {"network_peer_us", r.network_peer_us}};
  for (const auto& [name, value] : times)
    SWITCHYARD_REQUIRE(std::isfinite(value) && value >= 0, ShapeMismatch, "plan: ", name, "=",
                       value, ", must be finite and not negative. Give 0 to leave it out.");
}

void check_sizes(const PlanRequest& r) {
  validate(r.config);
  const int64_t experts = r.config.num_experts;
  SWITCHYARD_REQUIRE(r.num_ranks >= 1 && experts % r.num_ranks == 0, ShapeMismatch,
                     "plan: num_ranks=", r.num_ranks, ", must divide the E=", experts,
                     " experts. Use another number of ranks.");
  SWITCHYARD_REQUIRE(r.config.top_k <= r.config.num_choices(), ShapeMismatch,
                     "plan: top_k=", r.config.top_k, ", E=", experts,
                     ", a token chooses different experts. Pass the config of all ranks.");
  SWITCHYARD_REQUIRE(r.num_nodes >= 1 && r.num_ranks % r.num_nodes == 0, ShapeMismatch,
                     "plan: num_nodes=", r.num_nodes, ", must divide num_ranks=", r.num_ranks,
                     ". Use another number of nodes.");
  SWITCHYARD_REQUIRE(r.tokens >= 0, ShapeMismatch, "plan: tokens=", r.tokens,
                     ", must not be negative. Give the tokens of a rank.");
  check_rates(r.rates);
}

// Of a share that is 1.
constexpr double kRounding = 1e-12;

// How often each expert is among the K of a token.
std::vector<double> shares_of(const PlanRequest& r) {
  const auto experts = static_cast<size_t>(r.config.num_experts);
  const auto k = static_cast<double>(r.config.top_k);
  std::vector<double> counts = r.expert_counts;
  if (counts.empty()) counts.assign(experts, 1);
  SWITCHYARD_REQUIRE(counts.size() == experts, BadRouting,
                     "plan: expert_counts.size()=", counts.size(),
                     ", need one for each of E=", experts,
                     " experts. Record them "
                     "with this layer.");
  for (size_t e = 0; e < experts; ++e)
    SWITCHYARD_REQUIRE(std::isfinite(counts[e]) && counts[e] >= 0, BadRouting,
                       "plan: expert_counts[", e, "]=", counts[e],
                       ", must be finite and not negative. Record them again.");
  const double sum = std::accumulate(counts.begin(), counts.end(), 0.0);
  SWITCHYARD_REQUIRE(std::isfinite(sum) && sum > 0, BadRouting, "plan: sum of expert_counts=", sum,
                     ", must be positive and finite. Record at least one token.");
  for (size_t e = 0; e < experts; ++e) {
    const double share = counts[e] * (k / sum);
    SWITCHYARD_REQUIRE(share <= 1 + kRounding, BadRouting, "plan: expert_counts[", e,
                       "]=", counts[e], ", more than the ", sum / k, " tokens that chose K=", k,
                       " experts each. Record with distinct experts per token.");
    counts[e] = share > 1 - kRounding ? 1 : share;
  }
  return counts;
}

// What one token asks of whom, and where everybody is.
struct Demand {
  int64_t ranks, nodes;
  double tokens;                     // of a rank
  std::vector<double> of_rank;       // [P] chance that a token has an expert there
  std::vector<double> of_node;       // [N]
  std::vector<double> rank_slots;    // [P] expected slots of a token there
  std::vector<double> rank_actives;  // [P] experts with a slot among all tokens of all ranks

  int64_t node_size() const { return ranks / nodes; }
  int64_t node(int64_t rank) const { return rank / node_size(); }
  double ranks_per_token() const { return std::reduce(of_rank.begin(), of_rank.end()); }
  double nodes_per_token() const { return std::reduce(of_node.begin(), of_node.end()); }
  // Ranks of a node that a token goes to.
  double inside(int64_t which) const {
    const auto first = of_rank.begin() + which * node_size();
    return std::reduce(first, first + node_size());
  }
};

Demand demand_of(const PlanRequest& r) {
  const ExpertChoice choice(r.config, shares_of(r));
  const int64_t experts = experts_of_rank(r.config.num_experts, r.num_ranks);
  const auto clamped = [&](int64_t e) { return std::min(e, r.config.num_experts); };
  Demand d{r.num_ranks, r.num_nodes, static_cast<double>(r.tokens), {}, {}, {}, {}};
  const double all_tokens = d.tokens * r.num_ranks;
  for (int64_t rank = 0; rank < d.ranks; ++rank) {
    const int64_t begin = clamped(rank * experts), end = clamped(rank * experts + experts);
    double slots = 0, actives = 0;
    for (int64_t e = begin; e < end; ++e) {
      slots += choice.share(e);
      actives += 1 - std::pow(1 - choice.share(e), all_tokens);
    }
    d.of_rank.push_back(choice.any_of(begin, end));
    d.rank_slots.push_back(slots);
    d.rank_actives.push_back(actives);
  }
  const int64_t of_node = experts * d.node_size();
  for (int64_t node = 0; node < d.nodes; ++node)
    d.of_node.push_back(choice.any_of(clamped(node * of_node), clamped((node + 1) * of_node)));
  return d;
}

// Through the ports of each rank.
class PortCounts {
 public:
  struct Counts {
    double nvlink_sent, nvlink_received, network_sent, network_received;
  };
  void add(const Counts& counts) { ranks_.push_back(counts); }

  Traffic traffic() const {
    return {spread(&Counts::nvlink_sent), spread(&Counts::nvlink_received),
            spread(&Counts::network_sent), spread(&Counts::network_received)};
  }

 private:
  Spread spread(double Counts::*port) const {
    Spread s;
    for (const Counts& c : ranks_) {
      s.max = std::max(s.max, c.*port);
      s.mean += c.*port / ranks_.size();
    }
    return s;
  }
  std::vector<Counts> ranks_;
};

// Rows of a dispatch. A combine moves as many partial rows the other way.
Traffic normal_rows(const Demand& d) {
  PortCounts ports;
  for (int64_t r = 0; r < d.ranks; ++r) {
    const double own = d.of_rank[r], inside = d.inside(d.node(r));
    ports.add({.nvlink_sent = d.tokens * (inside - own),
               .nvlink_received = d.tokens * (d.node_size() - 1) * own,
               .network_sent = d.tokens * (d.ranks_per_token() - inside),
               .network_received = d.tokens * (d.ranks - d.node_size()) * own});
  }
  return ports.traffic();
}

Traffic two_level_rows(const Demand& d) {
  PortCounts ports;
  for (int64_t r = 0; r < d.ranks; ++r) {
    const double own = d.of_rank[r], inside = d.inside(d.node(r));
    const double node = d.of_node[d.node(r)];
    // NVLink: of its own tokens, and of those of the ranks with its number on every other node.
    ports.add({.nvlink_sent = d.tokens * d.nodes * (inside - own),
               .nvlink_received = d.tokens * d.nodes * (d.node_size() - 1) * own,
               .network_sent = d.tokens * (d.nodes_per_token() - node),
               .network_received = d.tokens * (d.nodes - 1) * node});
  }
  return ports.traffic();
}

Traffic all_gather_rows(const Demand& d) {
  const double near = d.tokens * (d.ranks - d.nodes), far = d.tokens * (d.nodes - 1);
  PortCounts ports;
  ports.add({near, near, far, far});  // alike on every rank
  return ports.traffic();
}

Traffic reversed(const Traffic& t) {
  return {t.nvlink_received, t.nvlink_sent, t.network_received, t.network_sent};
}

Spread bytes_of(const Spread& rows, double row_bytes, double fixed) {
  return {rows.max * row_bytes + fixed, rows.mean * row_bytes + fixed};
}

// What every rank tells every other beside rows.
struct CountBytes {
  double nvlink = 0, network = 0;
};

// Over the network counts. Inside a node the slots of all tokens, since no rank knows how many rows
// come: those of tokens that send a row are counted with it.
CountBytes count_bytes(const Demand& d, double slot_bytes) {
  const double sent = header_width(PeerPhase::Rows) * sizeof(int64_t);
  const double counts = (kHeaderCounts + d.ranks) * sizeof(int32_t);
  const double others = 1 - d.ranks_per_token() / d.ranks;
  return {(sent + d.tokens * slot_bytes * others) * (d.node_size() - 1),
          counts * (d.ranks - d.node_size())};
}

struct Part {
  double us;
  PlanBound bound;
};

// The first of equals.
template <size_t N>
Part longest(const std::array<Part, N>& parts) {
  return *std::ranges::max_element(parts, {}, &Part::us);
}

// One RowMove, but for the rows that it moves.
struct MoveCost {
  double row_bytes;
  CountBytes counts;
  double meetings_us;
};

RowMove move_of(const Traffic& rows, const MoveCost& cost, const ClusterRates& rates) {
  const CountBytes& c = cost.counts;
  const Traffic bytes{bytes_of(rows.nvlink_sent, cost.row_bytes, c.nvlink),
                      bytes_of(rows.nvlink_received, cost.row_bytes, c.nvlink),
                      bytes_of(rows.network_sent, cost.row_bytes, c.network),
                      bytes_of(rows.network_received, cost.row_bytes, c.network)};
  const double nvlink_us = 1e-3 / rates.nvlink_gbps, network_us = 1e-3 / rates.network_gbps;
  const Part port = longest(
      std::array<Part, 4>{{{bytes.nvlink_received.max * nvlink_us, PlanBound::NvlinkReceived},
                           {bytes.nvlink_sent.max * nvlink_us, PlanBound::NvlinkSent},
                           {bytes.network_received.max * network_us, PlanBound::NetworkReceived},
                           {bytes.network_sent.max * network_us, PlanBound::NetworkSent}}});
  const double us = cost.meetings_us + port.us;
  const PlanBound bound = us == 0                      ? PlanBound::Nothing
                          : cost.meetings_us > port.us ? PlanBound::Meetings
                                                       : port.bound;
  return {rows, bytes, cost.meetings_us, us, bound};
}

ExpertTime time_of_experts(const LocalWork& work, const PlanRequest& r) {
  DeviceDescription device;
  device.kind = DeviceKind::Cuda;
  device.gemm_gflops = r.rates.gemm_tflops * 1e3;
  device.read_gbps = r.rates.read_gbps;
  const LocalTime t = predict_local(work, r.config, GemmProvider::Hopper, device);
  const Part part = longest(std::array<Part, 4>{{{t.flops_us, PlanBound::Flops},
                                                 {t.weights_us, PlanBound::WeightReads},
                                                 {t.rows_us, PlanBound::RowMoves},
                                                 {t.launches_us, PlanBound::Launches}}});
  ExpertTime time;
  time.rows = work.rows;
  time.slots = work.slots;
  time.active_experts = work.active_experts;
  time.us = t.us();
  time.bound = part.bound;
  return time;
}

// Of the rank that takes longest.
ExpertTime slowest_experts(const Demand& d, const PlanRequest& r, bool every_row) {
  const double all_tokens = d.tokens * d.ranks;
  ExpertTime slowest;
  slowest.us = -1;
  for (size_t rank = 0; rank < d.of_rank.size(); ++rank) {
    const double rows = every_row ? all_tokens : all_tokens * d.of_rank[rank];
    ExpertTime time =
        time_of_experts({all_tokens * d.rank_slots[rank], rows, d.rank_actives[rank]}, r);
    time.rank = static_cast<int>(rank);
    if (time.us > slowest.us) slowest = time;
  }
  slowest.mean_slots = d.tokens * r.config.top_k;
  return slowest;
}

DispatcherPlan plan_of(const RowMove& dispatch, const ExpertTime& experts, const RowMove& combine) {
  const Part part = longest(std::array<Part, 3>{
      {{experts.us, experts.bound}, {dispatch.us, dispatch.bound}, {combine.us, combine.bound}}});
  return {dispatch, experts, combine, dispatch.us + experts.us + combine.us, part.bound};
}

// Meetings of ranks inside a node, and of ranks that reach `far_peers` beyond it.
double near_us(const Demand& d, const ClusterRates& r) {
  return d.node_size() > 1 ? r.nvlink_meeting_us : 0;
}
double far_us(int64_t far_peers, const ClusterRates& r) {
  if (far_peers == 0) return 0;
  return r.network_meeting_us + r.network_peer_us * far_peers;
}

}  // namespace

const char* bound_name(PlanBound bound) noexcept {
  switch (bound) {
    case PlanBound::Nothing: return "nothing";
    case PlanBound::NvlinkSent: return "NVLink sent";
    case PlanBound::NvlinkReceived: return "NVLink received";
    case PlanBound::NetworkSent: return "network sent";
    case PlanBound::NetworkReceived: return "network received";
    case PlanBound::Meetings: return "meetings";
    case PlanBound::Flops: return "flops";
    case PlanBound::WeightReads: return "weight reads";
    case PlanBound::RowMoves: return "row moves";
    case PlanBound::Launches: return "launches";
  }
  return "unknown";
}

RankPlan plan_ranks(const PlanRequest& request) {
  check_sizes(request);
  const Demand d = demand_of(request);
  const ClusterRates& rates = request.rates;
  const double partial_bytes = 2.0 * request.config.hidden;
  // K local ids and weights of 4 bytes each travel with a row.
  const double slot_bytes = 8.0 * request.config.top_k;
  const double row_bytes = partial_bytes + slot_bytes;
  const CountBytes counts = count_bytes(d, slot_bytes);
  const ExpertTime experts = slowest_experts(d, request, false);

  // All ranks meet at once, and the network is the longest way. `normal` tells that rows are there,
  // over the network counts before that, then that partial rows are.
  const int64_t far_peers = d.ranks - d.node_size();
  const double meeting_us = std::max(near_us(d, rates), far_us(far_peers, rates));
  const double counts_us = far_peers > 0 ? meeting_us : 0;
  const double rows_us = counts_us + meeting_us;
  // Two levels: every hop meets by itself, and the network's has one peer on each other node.
  const double hop_us = far_us(d.nodes - 1, rates), hops_us = hop_us + near_us(d, rates);
  const double gather_us = std::max(near_us(d, rates), hop_us);

  RankPlan plan;
  plan.ranks_per_token = d.ranks_per_token();
  plan.remote_rows_per_token = d.ranks_per_token() * (1 - 1.0 / d.ranks);
  plan.remote_nodes_per_token = d.nodes_per_token() * (1 - 1.0 / d.nodes);
  const Traffic normal = normal_rows(d), two_level = two_level_rows(d), all = all_gather_rows(d);
  plan.normal = plan_of(move_of(normal, {row_bytes, counts, rows_us}, rates), experts,
                        move_of(reversed(normal), {partial_bytes, {}, meeting_us}, rates));
  plan.two_level =
      plan_of(move_of(two_level, {row_bytes, counts, counts_us + hops_us}, rates), experts,
              move_of(reversed(two_level), {partial_bytes, {}, hops_us}, rates));
  plan.all_gather =
      plan_of(move_of(all, {row_bytes, {}, gather_us}, rates), slowest_experts(d, request, true),
              move_of(reversed(all), {partial_bytes, {}, gather_us}, rates));
  plan.window_bytes = dispatcher_bytes(
      d.ranks > 1 ? DispatcherKind::Normal : DispatcherKind::Local, request.config, request.tokens,
      request.num_ranks, 1, {d.ranks > 1 ? RowCarrier::PeerFetch : RowCarrier::Communicator});
  return plan;
}

}  // namespace switchyard
