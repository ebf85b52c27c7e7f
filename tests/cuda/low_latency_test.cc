// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/low_latency_test.cc -- the low-latency dispatcher over GPUs, shared ones too: bit by bit
// against threads of the CPU, against normal, against one rank; graphs, and peers that do not come.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "testing/gpu_layers.h"

namespace switchyard::testing {
namespace {

const Placement kPlacements[] = {{2, 1}, {4, 1}, {2, 2}, {4, 2}, {4, 4}, {8, 8}};

class PeerCudaLowLatency : public ::testing::TestWithParam<Placement> {};
INSTANTIATE_TEST_SUITE_P(Places, PeerCudaLowLatency, ::testing::ValuesIn(kPlacements),
                         [](const auto& info) { return name_of(info.param); });

// The host meets its peers before a kernel waits for them: what compute-sanitizer can run.
class PeerCudaOrderedLowLatency : public PeerCudaLowLatency {};
INSTANTIATE_TEST_SUITE_P(Places, PeerCudaOrderedLowLatency, ::testing::ValuesIn(kPlacements),
                         [](const auto& info) { return name_of(info.param); });

// ---- dispatchers

TEST_P(PeerCudaLowLatency, DispatchGivesTheBitsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const int64_t hidden : {64, 200, 7168}) {
    if (small() && hidden == 7168) continue;
    for (const auto& c : low_latency_cases(GetParam().num_ranks, hidden))
      ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "")
          << name_of(c) << ", H=" << hidden;
  }
}

TEST_P(PeerCudaOrderedLowLatency, DispatchGivesTheBitsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  auto cases = low_latency_cases(GetParam().num_ranks, 64);
  for (auto& c : f8_low_latency_cases(GetParam().num_ranks, 64)) cases.push_back(std::move(c));
  for (auto& c : cases) {
    const auto expected = expected_outcomes(c);
    c.options.host_ordered = true;
    for (const int blocks : {0, 3}) {
      c.options.num_link_blocks = blocks;
      ASSERT_EQ(difference(c, expected, on_gpus(c, GetParam())), "")
          << name_of(c) << ", link blocks " << blocks;
    }
  }
}

TEST_P(PeerCudaLowLatency, RowsInF8AreThoseThatTheCpuQuantises) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const int64_t hidden : {64, 264, 7168}) {  // scales of 4, 12 and 224 bytes
    if (small() && hidden == 7168) continue;
    for (const auto& c : f8_low_latency_cases(GetParam().num_ranks, hidden))
      ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "")
          << name_of(c) << ", H=" << hidden;
  }
}

DispatchCase random_low_latency_calls(const Placement& p, int num_calls, int64_t capacity,
                                      uint64_t seed) {
  auto c = random_calls(p.num_ranks, num_calls, capacity, seed);
  c.options.kind = DispatcherKind::LowLatency;
  return c;
}

TEST_P(PeerCudaLowLatency, ManyCallsOfAnyBoundOnOneWorkspace) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int num_calls = small() ? 5 : 200;
  for (const int64_t capacity : {24, 3000}) {
    const auto c = random_low_latency_calls(GetParam(), capacity > 24 ? num_calls / 10 : num_calls,
                                            capacity, 17);
    ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "") << capacity;
  }
}

TEST_P(PeerCudaLowLatency, ManyCallsOfRowsInF8) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const int64_t capacity : {24, 3000}) {  // pieces of 2 and of 8 vectors a lane
    if (small() && capacity > 24) continue;
    auto c = random_low_latency_calls(GetParam(), small() || capacity > 24 ? 5 : 100, capacity, 31);
    c.config.hidden = 1040;
    c.options.rows = DType::F8E4m3;
    c.f8_experts = c.odd_rows = true;
    const auto expected = expected_outcomes(c);
    for (const int blocks : {0, 3}) {
      c.options.num_link_blocks = blocks;
      ASSERT_EQ(difference(c, expected, on_gpus(c, GetParam())), "") << capacity << ", " << blocks;
    }
  }
}

// More tokens than a grid has groups, in groups of one and of many, and more choices than lanes.
TEST_P(PeerCudaLowLatency, TheNumberOfBlocksAndOfChoicesChangesNoBit) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const int64_t top_k : {3, 64}) {
    auto c = random_low_latency_calls(GetParam(), 4, top_k == 3 ? 1500 : 300, 23);
    c.config.num_experts = 64;
    c.config.top_k = top_k;
    const auto expected = expected_outcomes(c);
    for (const int blocks : {0, 1, 3, 50}) {
      c.options.num_link_blocks = blocks;
      ASSERT_EQ(difference(c, expected, on_gpus(c, GetParam())), "")
          << blocks << " blocks, K=" << top_k;
    }
  }
}

TEST_P(PeerCudaLowLatency, EpochsCrossTheEndOfTheirRange) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  auto c = random_low_latency_calls(GetParam(), 12, 24, 29);
  c.first_epoch = 0xfffffffau;
  ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "");
}

// ---- layers

// The tokens of all ranks on one.
LayerProblem on_one_rank(const LayerProblem& p) {
  LayerProblem one = p;
  const auto join = [](auto& all) {
    if (all.empty()) return;
    using Values = std::remove_reference_t<decltype(all.front())>;
    int64_t rows = 0;
    for (const auto& each : all) rows += each.view().dim(0);
    Shape shape = all.front().view().shape;
    Values joined(shape.rank() == 1 ? Shape{rows} : Shape{rows, shape[1]});
    int64_t at = 0;
    for (const auto& each : all) {
      std::copy_n(each.data(), each.count(), joined.data() + at);
      at += each.count();
    }
    all.clear();
    all.push_back(std::move(joined));
  };
  join(one.hidden), join(one.ids), join(one.router_weights), join(one.token_ids);
  return one;
}

void at_source(LayerOptions& o) {
  o.sums_at_source = true;
}

TEST_P(PeerCudaLowLatency, LayersGiveTheBitsOfNormalOrOfOneRank) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const auto skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::SameExperts,
                          Skew::FirstHalfOnly, Skew::NoExpert, Skew::SomeMissing})
    for (const int64_t most : {1, 300}) {
      const auto p = random_problem(
          small_config(), GetParam().num_ranks,
          [&](int r) { return r == 1 ? 0 : std::max<int64_t>(0, most - r * (most / 5)); }, skew,
          41);
      const auto one_rank = on_one_rank(p);
      const auto one = joined(one_rank, run_layer(one_rank, {1, 1}, "contiguous"));
      const auto normal = joined(p, run_layer(p, GetParam(), "normal+contiguous"));
      for (const std::string executor : {"contiguous", "masked", "hybrid"}) {
        const auto name = "low_latency+" + executor;
        EXPECT_TRUE(same_bits(joined(p, run_layer(p, GetParam(), name)), normal))
            << name << ", " << skew_name(skew) << ", " << most;
        EXPECT_TRUE(same_bits(joined(p, run_layer(p, GetParam(), name, at_source)), one))
            << name << " at source, " << skew_name(skew) << ", " << most;
      }
    }
}

class PeerCudaLowLatencyFamilies : public ::testing::TestWithParam<std::tuple<size_t, Placement>> {
};
INSTANTIATE_TEST_SUITE_P(All, PeerCudaLowLatencyFamilies,
                         ::testing::Combine(::testing::Range<size_t>(0,
                                                                     shared_oracle_cases().size()),
                                            ::testing::ValuesIn(kPlacements)),
                         [](const auto& info) {
                           return oracle_test_name(std::get<0>(info.param)) +
                                  name_of(std::get<1>(info.param));
                         });

TEST_P(PeerCudaLowLatencyFamilies, GiveTheBitsOfNormalOrOfOneRank) {
  const auto& [index, place] = GetParam();
  SWITCHYARD_SKIP_WITHOUT_GPUS(place.num_devices);
  const auto& c = shared_oracle_cases()[index];
  const auto p = problem_of(c, place.num_ranks, 1);
  const auto normal = joined(p, run_layer(p, place, "normal+contiguous"));
  EXPECT_TRUE(same_bits(joined(p, run_layer(p, place, "low_latency+masked")), normal));
  const auto one_rank = problem_of(c, 1, 1);
  const auto one = joined(one_rank, run_layer(one_rank, {1, 1}, "contiguous"));
  EXPECT_TRUE(same_bits(joined(p, run_layer(p, place, "low_latency+masked", at_source)), one));
  const auto sliced = problem_of(c, place.num_ranks, 2);
  EXPECT_TRUE(same_bits(joined(sliced, run_layer(sliced, place, "low_latency+masked")), normal))
      << "tp = 2";
}

TEST_P(PeerCudaOrderedLowLatency, LayersGiveTheBitsOfThoseThatAreNot) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks,
      [](int r) { return r == 1 ? 0 : std::max(int64_t{0}, int64_t{50} - 9 * r); }, Skew::Balanced,
      47);
  for (const bool source : {false, true}) {
    const auto options = [&](LayerOptions& o) { o.sums_at_source = source; };
    const auto ordered = joined(p, run_layer(p, GetParam(), "low_latency+masked", [&](auto& o) {
                                  options(o);
                                  o.host_ordered = true;
                                }));
    if (small()) continue;
    EXPECT_TRUE(
        same_bits(ordered, joined(p, run_layer(p, GetParam(), "low_latency+contiguous", options))));
  }
}

TEST_P(PeerCudaLowLatency, ManyCallsMayBeEnqueuedAhead) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int r) { return 30 - int64_t{r}; }, Skew::Balanced,
      73);
  const auto expected = run_layer(p, GetParam(), "normal+contiguous");
  for (const char each : run_ahead(p, GetParam(), "low_latency+masked", expected))
    EXPECT_TRUE(each);
}

// ---- graphs

TEST_P(PeerCudaLowLatency, AGraphReplaysWithOtherRoutingAndEqualsEager) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int r) { return r == 1 ? int64_t{0} : int64_t{70}; },
      Skew::Balanced, 71);
  const bool apart = GetParam().num_ranks == GetParam().num_devices;
  const int num_replays = small() ? 3 : apart ? 10000 : 500;
  for (const bool source : {false, true}) {
    std::vector<int> differs(static_cast<size_t>(GetParam().num_ranks), -2);
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      auto options = options_of(p, g, "low_latency+masked");
      options.sums_at_source = source;
      differs[static_cast<size_t>(g.rank())] = replays_that_differ(p, g, options, num_replays);
    });
    for (size_t r = 0; r < differs.size(); ++r)
      EXPECT_EQ(differs[r], -1) << "rank " << r << ", replay " << differs[r];
  }
}

// ---- faults

TEST_P(PeerCudaLowLatency, ARankThatNeverComesIsNamedAndTheProcessGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int n = GetParam().num_ranks, missing = n - 1;
  const auto p = random_problem(
      small_config(), n, [](int) { return int64_t{40}; }, Skew::Balanced, 81);
  const auto expected = run_layer(p, GetParam(), "low_latency+masked");
  Said said(n);
  std::atomic<int> waiting = 0;
  const auto start = std::chrono::steady_clock::now();
  run_gpu_ranks(GetParam(),
                [&](GpuRank& g) {
                  const RankLayer rank(p, g, options_of(p, g, "low_latency+masked"));
                  g.everyone();
                  rank.run();
                  g.everyone();
                  if (g.rank() == missing) {  // its layer is gone while peers wait for it
                    while (waiting < missing && seconds_since(start) < 20)
                      std::this_thread::yield();
                    return;
                  }
                  said.listen(g.rank(), [&] {
                    rank.layer->forward(rank.args());
                    ++waiting;
                    rank.layer->wait(g.stream);
                  });
                },
                {.deadline = std::chrono::milliseconds(1000)});
  for (int r = 0; r < missing; ++r) {
    EXPECT_EQ(said.codes[static_cast<size_t>(r)], Errc::Transport) << "rank " << r;
    EXPECT_NE(said.messages[static_cast<size_t>(r)].find("dispatch: rows of rank " +
                                                         std::to_string(missing) + " did not come"),
              std::string::npos)
        << said.messages[static_cast<size_t>(r)];
  }
  EXPECT_EQ(run_layer(p, GetParam(), "low_latency+masked"), expected) << "a new communicator works";
}

// Experts of a rank are chosen no more. How many choices of each rank that takes.
std::vector<int64_t> drop_experts_of(int lost, LayerProblem& p) {
  const auto per_rank = experts_of_rank(p.config.num_experts, static_cast<int>(p.hidden.size()));
  std::vector<int64_t> num_dropped;
  for (auto& ids : p.ids) {
    num_dropped.push_back(0);
    for (int64_t i = 0; i < ids.count(); ++i) {
      if (ids[i] < 0 || ids[i] / per_rank != lost) continue;
      ids[i] = kNoExpert;
      ++num_dropped.back();
    }
  }
  return num_dropped;
}

TEST_P(PeerCudaLowLatency, ReplaysGoOnWithoutARankThatIsLost) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int n = GetParam().num_ranks, lost = n - 1, num_replays = small() ? 3 : 50;
  const auto p = random_problem(
      small_config(), n, [](int r) { return int64_t{40} - r; }, Skew::Balanced, 85);
  LayerProblem without = p;
  const auto num_dropped = drop_experts_of(lost, without);
  const auto expected = run_layer(without, GetParam(), "normal+contiguous");
  std::vector<int32_t> others(static_cast<size_t>(lost));
  std::iota(others.begin(), others.end(), 0);
  Said said(n);
  std::vector<char> missing(others.size()), same(others.size());
  std::vector<int64_t> dropped(others.size());
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    auto options = options_of(p, g, "low_latency+masked");
    options.lost_rank_timeout = std::chrono::milliseconds(500);
    const RankLayer rank(p, g, options);
    const auto at = static_cast<size_t>(g.rank());
    g.everyone();
    rank.run();
    g.everyone();
    {
      Graph graph(g.stream, [&] { rank.layer->forward(rank.args()); });
      g.everyone();
      if (g.rank() != lost) {
        graph.launch(g.stream);
        said.listen(g.rank(), [&] { rank.layer->wait(g.stream); });
        missing[at] = rank.layer->missing_ranks(g.stream) == std::vector<int32_t>{lost};
        rank.layer->set_active_ranks(others, g.stream);
        same[at] = true;
        for (int i = 0; i < num_replays; ++i) {
          rank.poison();
          graph.launch(g.stream);
          rank.layer->wait(g.stream);
          same[at] &= rank.bits() == expected[at];
        }
        dropped[at] = read<int64_t>(*g.backend, rank.layer->dropped_routes(), g.stream)[0];
      }
      g.everyone();
    }
    g.everyone();
  });
  for (size_t r = 0; r < others.size(); ++r) {
    EXPECT_EQ(said.codes[r], Errc::Transport) << "rank " << r;
    EXPECT_NE(said.messages[r].find("dispatch: rows of rank " + std::to_string(lost) +
                                    " did not come within lost_rank_timeout"),
              std::string::npos)
        << said.messages[r];
    EXPECT_TRUE(missing[r]) << "rank " << r;
    EXPECT_TRUE(same[r]) << "rank " << r;
    EXPECT_EQ(dropped[r], num_replays * num_dropped[r]) << "rank " << r;
  }
}

TEST_P(PeerCudaLowLatency, WhatOneRankGetsWrongEveryRankThrowsAndTheLayerGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int n = GetParam().num_ranks;
  const auto p = random_problem(
      small_config(), n, [](int r) { return int64_t{20} + r; }, Skew::Balanced, 101);
  for (const bool source : {false, true}) {
    const auto change = [&](LayerOptions& o) { o.sums_at_source = source; };
    const auto expected = run_layer(p, GetParam(), "low_latency+masked", change);
    Said bad_id(n), bad_bound(n), bad_argument(n);
    std::vector<char> good(static_cast<size_t>(n)), nan(good.size());
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      auto options = options_of(p, g, "low_latency+masked");
      change(options);
      const RankLayer rank(p, g, options);
      const auto at = static_cast<size_t>(g.rank());
      const int32_t outside = 1000;
      const Tensor first(rank.ids->view().data, DType::I32, {1}, DeviceKind::Cuda);
      int32_t before = 0;
      copy_to_host(*g.backend, &before, first, g.stream);
      g.everyone();
      if (g.rank() == 1) copy_to_device(*g.backend, first, &outside, g.stream);
      bad_id.listen(g.rank(), [&] { rank.call(rank.args()); });
      const auto bits = rank.bits();
      nan[at] = std::all_of(bits.begin(), bits.end(), [](uint16_t b) { return b == 0x7fc0; });
      copy_to_device(*g.backend, first, &before, g.stream);

      ForwardArgs args = rank.args();
      args.max_tokens = p.max_tokens() - (g.rank() == 0);
      bad_bound.listen(g.rank(), [&] { rank.call(args); });

      args = rank.args();
      if (g.rank() == 1) args.output.shape = {1, 8};
      bad_argument.listen(g.rank(), [&] { rank.call(args); });

      good[at] = rank.run() == expected[at];
      g.everyone();
    });
    for (size_t r = 0; r < good.size(); ++r) {
      EXPECT_EQ(bad_id.codes[r], Errc::BadRouting) << bad_id.messages[r];
      EXPECT_EQ(bad_bound.codes[r], Errc::ShapeMismatch) << bad_bound.messages[r];
      EXPECT_EQ(bad_argument.codes[r], Errc::ShapeMismatch) << bad_argument.messages[r];
      EXPECT_TRUE(nan[r]) << "rank " << r;
      EXPECT_TRUE(good[r]) << "rank " << r;
    }
  }
}

}  // namespace
}  // namespace switchyard::testing
