// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/strategy/plan_test.cc -- what P ranks on N nodes move: known distributions, drawn tokens,
// and what must hold whatever the routing.
#include "switchyard/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <set>

#include "strategy/cost_model.h"
#include "strategy/expert_choice.h"
#include "switchyard/error.h"

namespace switchyard {
namespace {

PlanRequest request(int64_t experts, int64_t top_k, int ranks, int nodes = 1) {
  PlanRequest r;
  r.config.hidden = 2048;
  r.config.intermediate = 768;
  r.config.num_experts = experts;
  r.config.top_k = top_k;
  r.num_ranks = ranks;
  r.num_nodes = nodes;
  r.tokens = 4096;
  return r;
}

// Share of expert e such that its odds are as 1 / (e + 1), K in all.
std::vector<double> zipf(int64_t experts, int64_t top_k) {
  const auto shares = [&](double c) {
    std::vector<double> all;
    for (int64_t e = 0; e < experts; ++e) all.push_back(c / (c + static_cast<double>(e + 1)));
    return all;
  };
  double low = 0, high = 1e6;
  for (int i = 0; i < 200; ++i) {
    const double c = (low + high) / 2;
    const auto s = shares(c);
    (std::reduce(s.begin(), s.end()) < static_cast<double>(top_k) ? low : high) = c;
  }
  return shares(low);
}

// C(n - a, k) / C(n, k): of n experts k are drawn, none of them among a.
double misses(int64_t n, int64_t a, int64_t k) {
  double chance = 1;
  for (int64_t i = 0; i < k; ++i)
    chance *= std::max(0.0, static_cast<double>(n - a - i)) / static_cast<double>(n - i);
  return chance;
}

TEST(PlanRanks, AnEvenGateIsHypergeometric) {
  // Rounded, from tables that others computed.
  struct Row {
    int ranks;
    int64_t top_k, experts;
    double rows;
  };
  for (const Row& row : {Row{2, 2, 64, 0.754},
                         {2, 4, 64, 0.943},
                         {2, 6, 64, 0.988},
                         {2, 8, 256, 0.997},
                         {4, 2, 64, 1.32},
                         {4, 4, 64, 2.08},
                         {4, 6, 64, 2.51},
                         {4, 8, 256, 2.71},
                         {8, 2, 64, 1.65},
                         {8, 4, 64, 2.95},
                         {8, 6, 64, 3.97},
                         {8, 8, 256, 4.63}}) {
    const RankPlan plan = plan_ranks(request(row.experts, row.top_k, row.ranks));
    EXPECT_NEAR(plan.remote_rows_per_token, row.rows, row.rows < 1 ? 5e-4 : 5e-3)
        << row.ranks << " " << row.top_k;
    const double exact =
        (row.ranks - 1) * (1 - misses(row.experts, row.experts / row.ranks, row.top_k));
    EXPECT_NEAR(plan.remote_rows_per_token, exact, 1e-12 * row.ranks);
  }
  for (const int ranks : {16, 32, 64, 128, 256}) {
    const RankPlan plan = plan_ranks(request(256, 8, ranks, ranks / 8));
    EXPECT_NEAR(plan.ranks_per_token, ranks * (1 - misses(256, 256 / ranks, 8)), 1e-10);
    const double nodes = ranks / 8.0;
    EXPECT_NEAR(plan.remote_nodes_per_token, (nodes - 1) * (1 - misses(256, 256 / (ranks / 8), 8)),
                1e-10);
  }
}

// All sets of 3 of 16 experts that are in exactly `kept` of 4 groups, or of one, by their odds.
struct Sets {
  std::vector<double> shares = std::vector<double>(16);
  std::vector<double> any_of_rank = std::vector<double>(8);  // of 2 experts each

  Sets(const std::vector<double>& odds, size_t group_size, size_t kept) {
    double sum = 0;
    for (size_t a = 0; a < 16; ++a)
      for (size_t b = a + 1; b < 16; ++b)
        for (size_t c = b + 1; c < 16; ++c) {
          if (std::set{a / group_size, b / group_size, c / group_size}.size() != kept) continue;
          const double weight = odds[a] * odds[b] * odds[c];
          sum += weight;
          for (const size_t e : {a, b, c}) shares[e] += weight;
          for (const size_t r : std::set{a / 2, b / 2, c / 2}) any_of_rank[r] += weight;
        }
    for (double& share : shares) share /= sum;
    for (double& any : any_of_rank) any /= sum;
  }
};

TEST(ExpertChoice, IsWhatAllSetsOfExpertsGive) {
  std::mt19937_64 rng(5);
  for (const auto& [groups, kept] : {std::pair{1, 1}, {4, 1}, {4, 2}, {4, 3}})
    for (const double skew : {0.0, 0.5, 1.0}) {
      std::normal_distribution<double> log_odds(0, skew + 1e-30);
      std::vector<double> odds;
      for (int e = 0; e < 16; ++e) odds.push_back(std::exp(log_odds(rng)));
      const auto count = static_cast<size_t>(groups);
      const Sets sets(odds, 16 / count, static_cast<size_t>(kept));
      MoeConfig config = request(16, 3, 1).config;
      config.gate.num_groups = groups;
      config.gate.num_groups_kept = kept;
      const ExpertChoice choice(config, sets.shares);
      for (int64_t r = 0; r < 8; ++r)
        EXPECT_NEAR(choice.any_of(2 * r, 2 * r + 2), sets.any_of_rank[static_cast<size_t>(r)], 1e-7)
            << kept << " of " << groups << " groups, skew " << skew;
    }
}

// A gate's choice for one token from scores that are noise over a bias.
std::vector<int64_t> choose(const MoeConfig& c, const std::vector<double>& bias,
                            std::mt19937_64& rng) {
  std::extreme_value_distribution<double> noise;
  std::vector<double> score(bias);
  for (double& s : score) s += noise(rng);
  const auto groups = static_cast<size_t>(c.gate.num_groups), size = score.size() / groups;
  std::vector<std::pair<double, size_t>> best;  // of groups: the sum of their two best
  for (size_t g = 0; g < groups; ++g) {
    std::vector<double> mine(score.begin() + static_cast<int64_t>(g * size),
                             score.begin() + static_cast<int64_t>((g + 1) * size));
    std::partial_sort(mine.begin(), mine.begin() + 2, mine.end(), std::greater<>());
    best.emplace_back(mine[0] + mine[1], g);
  }
  std::sort(best.rbegin(), best.rend());
  for (size_t i = static_cast<size_t>(c.gate.num_groups_kept); i < groups; ++i)
    for (size_t e = 0; e < size; ++e) score[best[i].second * size + e] = -1e300;
  std::vector<int64_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + c.top_k, order.end(), [&](int64_t a, int64_t b) {
    return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(c.top_k));
  return order;
}

struct Drawn {
  std::vector<double> counts;        // [E]
  std::vector<std::set<int>> ranks;  // of each token
};

Drawn draw(const PlanRequest& r, const std::vector<double>& bias, int tokens) {
  std::mt19937_64 rng(17);
  Drawn d;
  d.counts.assign(bias.size(), 0);
  for (int t = 0; t < tokens; ++t) {
    d.ranks.emplace_back();
    for (const int64_t e : choose(r.config, bias, rng)) {
      d.counts[static_cast<size_t>(e)] += 1;
      d.ranks.back().insert(static_cast<int>(e / (r.config.num_experts / r.num_ranks)));
    }
  }
  return d;
}

TEST(PlanRanks, ForesaysWhatAGateOfTheSameCountsDoes) {
  struct Gate {
    int64_t experts, top_k, groups, kept;
    double skew;
    int ranks;
  };
  for (const Gate& g : {Gate{128, 8, 1, 1, 0, 8},
                        {128, 8, 1, 1, 1, 8},
                        {128, 8, 1, 1, 1, 32},
                        {64, 1, 1, 1, 1, 16},
                        {256, 8, 8, 4, 0, 8},
                        {256, 8, 8, 4, 0.3, 16},
                        {256, 8, 8, 4, 0.3, 64}}) {
    PlanRequest r = request(g.experts, g.top_k, g.ranks);
    r.config.gate.num_groups = g.groups;
    r.config.gate.num_groups_kept = g.kept;
    std::vector<double> bias;
    for (int64_t e = 0; e < g.experts; ++e)
      bias.push_back(-g.skew * std::log(static_cast<double>(e * 37 % g.experts + 1)));
    const Drawn drawn = draw(r, bias, 5000);
    r.expert_counts = drawn.counts;
    const RankPlan plan = plan_ranks(r);
    double ranks = 0, hottest = 0;
    for (int rank = 0; rank < g.ranks; ++rank) {
      const auto with = static_cast<double>(std::count_if(
          drawn.ranks.begin(), drawn.ranks.end(), [&](const auto& s) { return s.contains(rank); }));
      ranks += with / 5000;
      hottest = std::max(hottest, with / 5000);
    }
    // 1 % is noise of 5000 tokens; groups add 1 %, as their best are not kept at random.
    EXPECT_NEAR(plan.ranks_per_token / ranks, 1, 0.02) << g.experts << " over " << g.ranks;
    const double received = plan.normal.dispatch.rows.nvlink_received.max;
    EXPECT_NEAR(received / (4096 * (g.ranks - 1) * hottest), 1, 0.03);
  }
}

TEST(PlanRanks, WhatIsSentIsReceived) {
  for (const auto& [ranks, nodes] : {std::pair{1, 1}, {2, 1}, {8, 1}, {8, 8}, {16, 2}, {64, 8}})
    for (const bool skewed : {false, true}) {
      PlanRequest r = request(64, 6, ranks, nodes);
      if (skewed) r.expert_counts = zipf(64, 6);
      const RankPlan plan = plan_ranks(r);
      for (const auto* d : {&plan.normal, &plan.two_level, &plan.all_gather})
        for (const Traffic& t :
             {d->dispatch.rows, d->dispatch.bytes, d->combine.rows, d->combine.bytes}) {
          EXPECT_NEAR(t.nvlink_sent.mean, t.nvlink_received.mean, 1e-9 * t.nvlink_sent.mean);
          EXPECT_NEAR(t.network_sent.mean, t.network_received.mean, 1e-9 * t.network_sent.mean);
          for (const Spread& s :
               {t.nvlink_sent, t.nvlink_received, t.network_sent, t.network_received})
            EXPECT_GE(s.max, s.mean * (1 - 1e-12));
        }
      const Traffic& rows = plan.normal.dispatch.rows;
      EXPECT_NEAR(rows.nvlink_sent.mean + rows.network_sent.mean, 4096 * plan.remote_rows_per_token,
                  1e-6);
      EXPECT_NEAR(plan.two_level.dispatch.rows.network_sent.mean,
                  4096 * plan.remote_nodes_per_token, 1e-6);
      EXPECT_EQ(plan.normal.combine.rows.nvlink_sent.max, rows.nvlink_received.max);
      if (nodes == 1) {
        EXPECT_EQ(plan.two_level.us, plan.normal.us);
      }
      if (nodes == ranks) {
        EXPECT_EQ(rows.nvlink_sent.max, 0);
      }
    }
}

TEST(PlanRanks, OneRankMovesNothing) {
  const RankPlan plan = plan_ranks(request(128, 8, 1));
  EXPECT_EQ(plan.ranks_per_token, 1);
  EXPECT_EQ(plan.remote_rows_per_token, 0);
  EXPECT_EQ(plan.remote_nodes_per_token, 0);
  for (const auto* d : {&plan.normal, &plan.two_level, &plan.all_gather}) {
    EXPECT_EQ(d->dispatch.bytes.nvlink_sent.max + d->dispatch.bytes.network_sent.max, 0);
    EXPECT_EQ(d->dispatch.us + d->combine.us, 0);
    EXPECT_EQ(d->dispatch.bound, PlanBound::Nothing);
    EXPECT_EQ(d->us, d->experts.us);
  }
  EXPECT_EQ(plan.normal.experts.slots, 4096 * 8);
}

TEST(PlanRanks, ExpertsTakeWhatExplainPredicts) {
  PlanRequest r = request(128, 8, 1);
  r.rates.gemm_tflops = 780;
  StrategyRequest s;
  s.config = r.config;
  s.max_tokens = r.tokens;
  s.device.kind = DeviceKind::Cuda;
  s.device.gemm_gflops = 780e3;
  s.device.read_gbps = 3000;
  const double whole =
      predict({DispatcherKind::Local, ExecutorKind::Contiguous, GemmProvider::Hopper}, s).us();
  const double maps = 4096 * 8 * 8 / 3000e3;  // the plan of the rows, which no port waits for
  EXPECT_NEAR(plan_ranks(r).normal.us, whole - maps, 1e-6);
}

TEST(PlanRanks, OneHotExpertMakesItsRankHot) {
  PlanRequest r = request(64, 4, 8);
  r.expert_counts.assign(64, 3.0 / 63);
  r.expert_counts[19] = 1;  // of every token; rank 2 owns it
  const RankPlan plan = plan_ranks(r);
  const Traffic& rows = plan.normal.dispatch.rows;
  EXPECT_NEAR(rows.nvlink_received.max, 4096 * 7, 1e-6);
  EXPECT_EQ(plan.normal.experts.rank, 2);
  EXPECT_NEAR(plan.normal.experts.rows, 4096 * 8, 1e-6);
  EXPECT_NEAR(plan.normal.experts.slots, 4096 * 8 * (1 + 7 * 3.0 / 63), 1e-6);
  EXPECT_EQ(plan.normal.dispatch.bound, PlanBound::NvlinkReceived);
  EXPECT_EQ(plan.normal.combine.bound, PlanBound::NvlinkSent);
  // The rest is hypergeometric: 3 of the other 63.
  EXPECT_NEAR(plan.ranks_per_token, 1 + 7 * (1 - misses(63, 8, 3)), 1e-8);
}

TEST(PlanRanks, EveryExpertOfEveryTokenIsAnAllGather) {
  for (const bool counted : {false, true}) {
    PlanRequest r = request(8, 8, 4);
    if (counted) r.expert_counts.assign(8, 3);
    const RankPlan plan = plan_ranks(r);
    EXPECT_EQ(plan.remote_rows_per_token, 3);
    EXPECT_EQ(plan.normal.dispatch.rows.nvlink_sent.max, 3 * 4096);
    EXPECT_EQ(plan.normal.dispatch.rows.nvlink_sent.max,
              plan.all_gather.dispatch.rows.nvlink_sent.max);
  }
}

TEST(PlanRanks, TwoLevelsSendARowOncePerNode) {
  const RankPlan plan = plan_ranks(request(256, 8, 64, 8));
  const Traffic &one = plan.normal.dispatch.rows, &two = plan.two_level.dispatch.rows;
  EXPECT_GT(one.network_sent.max, 1.3 * two.network_sent.max);
  EXPECT_LT(one.nvlink_sent.max, two.nvlink_sent.max);
  EXPECT_NEAR(two.network_sent.max, 4096 * plan.remote_nodes_per_token, 1e-6);
  EXPECT_EQ(plan.normal.dispatch.bound, PlanBound::NetworkReceived);
  EXPECT_GT(plan.normal.us, plan.two_level.us);
  // Not more than the experts of a token, whatever the number of nodes.
  EXPECT_LE(plan_ranks(request(256, 8, 256, 128)).ranks_per_token, 8 + 1e-9);
}

TEST(PlanRanks, RanksAndNodesOfAGateWithGroups) {
  PlanRequest r = request(256, 8, 64, 8);
  r.config.gate.num_groups = 8;
  r.config.gate.num_groups_kept = 4;
  const RankPlan plan = plan_ranks(r);  // a group is a node
  EXPECT_NEAR(plan.remote_nodes_per_token, 4 * 7 / 8.0, 1e-8);
  EXPECT_LT(plan.remote_nodes_per_token, plan_ranks(request(256, 8, 64, 8)).remote_nodes_per_token);
}

TEST(PlanRanks, NoTokensAndFewTokens) {
  PlanRequest r = request(128, 8, 16, 2);
  r.tokens = 0;
  const RankPlan none = plan_ranks(r);
  EXPECT_EQ(none.normal.dispatch.rows.network_sent.max, 0);
  EXPECT_EQ(none.normal.dispatch.bound, PlanBound::Meetings);
  EXPECT_EQ(none.normal.experts.active_experts, 0);
  EXPECT_GT(none.normal.us, 0);
  r.tokens = 64;
  EXPECT_EQ(plan_ranks(r).normal.experts.bound, PlanBound::WeightReads);
}

TEST(PlanRanks, EqualRequestsGiveEqualBits) {
  PlanRequest r = request(512, 10, 128, 16);
  r.expert_counts = zipf(512, 10);
  const RankPlan a = plan_ranks(r), b = plan_ranks(r);
  EXPECT_EQ(a.normal.us, b.normal.us);
  for (double& count : r.expert_counts) count *= 1e6;  // in any unit
  EXPECT_NEAR(plan_ranks(r).normal.us, a.normal.us, 1e-6 * a.normal.us);
}

TEST(PlanRanks, WindowsHoldAllRowsOfAllRanks) {
  const int64_t window = plan_ranks(request(256, 8, 64, 8)).window_bytes;
  const int64_t rows = int64_t{64} * 4096;
  EXPECT_GE(window, rows * (2048 * 2 + 8 * 8));
  EXPECT_LT(window, rows * (2048 * 2 + 8 * 8) * 11 / 10);
}

TEST(PlanRanks, SaysWhatIsWrong) {
  const auto refused = [](Errc code, const char* says, const std::function<void(PlanRequest&)>& f) {
    PlanRequest r = request(64, 4, 8);
    f(r);
    try {
      plan_ranks(r);
      ADD_FAILURE() << says;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
  };
  const auto shape = Errc::ShapeMismatch, routing = Errc::BadRouting;
  const double nan = std::nan("");
  refused(shape, "num_ranks=0", [](auto& r) { r.num_ranks = 0; });
  refused(shape, "num_ranks=24, must divide the E=64", [](auto& r) { r.num_ranks = 24; });
  refused(shape, "num_nodes=0", [](auto& r) { r.num_nodes = 0; });
  refused(shape, "num_nodes=3, must divide num_ranks=8", [](auto& r) { r.num_nodes = 3; });
  refused(shape, "tokens=-1", [](auto& r) { r.tokens = -1; });
  refused(shape, "does not fit", [](auto& r) { r.tokens = INT64_MAX / 4; });
  refused(shape, "hidden=-12", [](auto& r) { r.config.hidden = -12; });
  refused(shape, "nvlink_gbps=0", [](auto& r) { r.rates.nvlink_gbps = 0; });
  refused(shape, "network_gbps=nan", [=](auto& r) { r.rates.network_gbps = nan; });
  refused(shape, "network_peer_us=-1", [](auto& r) { r.rates.network_peer_us = -1; });
  refused(routing, "size()=3", [](auto& r) { r.expert_counts = {1, 2, 3}; });
  refused(routing, "expert_counts[5]=-1", [](auto& r) {
    r.expert_counts.assign(64, 1);
    r.expert_counts[5] = -1;
  });
  refused(routing, "expert_counts[6]=nan", [=](auto& r) {
    r.expert_counts.assign(64, 1);
    r.expert_counts[6] = nan;
  });
  refused(routing, "sum of expert_counts=0", [](auto& r) { r.expert_counts.assign(64, 0); });
  refused(routing, "sum of expert_counts=inf", [](auto& r) { r.expert_counts.assign(64, 1e308); });
  refused(routing, "expert_counts[7]=40, more than", [](auto& r) {
    r.expert_counts.assign(64, 1);
    r.expert_counts[7] = 40;
  });
  refused(routing, "out of 2 of 4 groups", [](auto& r) {
    r.config.gate.num_groups = 4;
    r.config.gate.num_groups_kept = 2;
    r.expert_counts.assign(64, 0);
    for (const size_t e : {0, 16, 32, 48}) r.expert_counts[e] = 1;
  });
}

}  // namespace
}  // namespace switchyard
