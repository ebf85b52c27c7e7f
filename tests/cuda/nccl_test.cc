// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/nccl_test.cc -- ranks on GPUs of their own that exchange rows over NCCL, as between
// hosts: dispatchers bit by bit against threads of the CPU, layers against those over peer memory,
// graphs, exact sizes, and peers that do not come. Ranks are threads; nccl_processes_test.cc has
// processes.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <map>
#include <mutex>
#include <thread>

#include "switchyard/measure.h"
#include "switchyard/oracle.h"
#include "testing/comes.h"
#include "testing/gpu_layers.h"
#include "testing/nccl.h"

namespace switchyard::testing {
namespace {

// ---- dispatchers

class NcclRanks : public ::testing::TestWithParam<Placement> {};
INSTANTIATE_TEST_SUITE_P(Places, NcclRanks,
                         ::testing::Values(Placement{2, 2}, Placement{4, 4}, Placement{8, 8}),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(NcclRanks, DispatchersGiveTheBitsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  for (const int64_t hidden : {64, 200, 7168}) {
    auto cases = dispatch_cases(GetParam().num_ranks, hidden);
    for (auto& c : f8_dispatch_cases(GetParam().num_ranks, hidden)) cases.push_back(std::move(c));
    for (auto& c : cases) {
      const auto expected = expected_outcomes(c);
      c.options.peer_memory = false;
      for (const bool exact : {false, true}) {
        if (exact && c.options.kind != DispatcherKind::Normal) continue;
        c.options.host_counts = exact;
        ASSERT_EQ(difference(c, expected, on_gpus(c, GetParam())), "")
            << name_of(c) << ", H=" << hidden << (exact ? ", exact sizes" : ", blocks");
      }
    }
  }
}

TEST_P(NcclRanks, ManyCallsOfAnyBoundOnOneWorkspace) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  for (const int64_t capacity : {24, 3000}) {
    auto c = random_calls(GetParam().num_ranks, capacity > 24 ? 20 : 200, capacity, 17);
    const auto expected = expected_outcomes(c);
    c.options.peer_memory = false;
    for (const bool exact : {false, true}) {
      c.options.host_counts = exact;
      ASSERT_EQ(difference(c, expected, on_gpus(c, GetParam())), "")
          << capacity << (exact ? ", exact sizes" : ", blocks");
    }
  }
}

// ---- layers

void forbid(LayerOptions& o) {
  o.peer_memory = false;
}
void forbid_and_count(LayerOptions& o) {
  o.peer_memory = false, o.host_counts = true;
}

// `others` ranks count themselves before they wait for this one, which gives up.
void abort_once_they_wait(GpuRank& g, const std::atomic<int>& waiting, int others) {
  comes([&] { return waiting >= others; }, std::chrono::seconds(20));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  g.comm.abort("this rank has had enough");
}

class NcclFamilies : public ::testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(All, NcclFamilies,
                         ::testing::Range<size_t>(0, shared_oracle_cases().size()),
                         [](const auto& info) { return oracle_test_name(info.param); });

TEST_P(NcclFamilies, GiveTheBitsOfPeerMemory) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(2);
  const auto& c = shared_oracle_cases()[GetParam()];
  const Placement place{2, 2};
  const auto p = problem_of(c, 2, 1);
  const auto base = run_layer(p, place, "normal+contiguous");
  const auto d =
      compare(joined(p, run_layer(p, place, "normal+contiguous", forbid)).view(), c.expected());
  EXPECT_LE(d.rel_error, 4e-3) << c.name;
  EXPECT_LE(d.max_row_error, 2e-2) << c.name << ", row " << d.worst_row;
  for (const std::string strategy :
       {"normal+contiguous", "normal+masked", "normal+hybrid", "all_gather+contiguous"})
    EXPECT_EQ(run_layer(p, place, strategy, forbid), base) << c.name << ", " << strategy;
  EXPECT_EQ(run_layer(p, place, "normal+masked", forbid_and_count), base)
      << c.name << ", exact sizes";
  const auto tp = problem_of(c, 2, 2);
  for (const std::string strategy : {"local+contiguous", "normal+masked"})
    EXPECT_EQ(run_layer(tp, place, strategy, forbid), run_layer(tp, place, strategy))
        << c.name << ", " << strategy << ", tp = P";
}

TEST_P(NcclRanks, EverySkewAndUnevenRanksGiveTheBitsOfPeerMemory) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  for (const auto skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::SameExperts,
                          Skew::FirstHalfOnly, Skew::NoExpert, Skew::SomeMissing})
    for (const int64_t most : {1, 130}) {
      const auto p = random_problem(
          small_config(), GetParam().num_ranks,
          [&](int r) { return r == 1 ? 0 : std::max<int64_t>(0, most - r * (most / 5)); }, skew,
          41);
      const auto base = run_layer(p, GetParam(), "contiguous");
      EXPECT_EQ(run_layer(p, GetParam(), "contiguous", forbid), base) << skew_name(skew) << most;
      EXPECT_EQ(run_layer(p, GetParam(), "masked", forbid_and_count), base)
          << skew_name(skew) << most << ", exact sizes";
    }
}

TEST_P(NcclRanks, TheStrategySaysWhatCarriesRows) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int) { return int64_t{4}; }, Skew::Balanced, 3);
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    auto options = options_of(p, g, "masked");
    forbid(options);
    const RankLayer rank(p, g, options);
    EXPECT_NE(rank.layer->strategy().carrier.find("NCCL"), std::string::npos)
        << rank.layer->strategy().carrier;
    g.everyone();
  });
}

// ---- graphs

TEST_P(NcclRanks, AGraphReplaysWithOtherRoutingAndEqualsEager) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int r) { return r == 1 ? int64_t{0} : int64_t{70}; },
      Skew::Balanced, 71);
  for (const std::string strategy : {"contiguous", "masked", "all_gather+hybrid"})
    for (const int pieces : {1, 3}) {
      std::vector<int> differs(static_cast<size_t>(GetParam().num_ranks), -2);
      run_gpu_ranks(GetParam(), [&](GpuRank& g) {
        auto options = options_of(p, g, strategy);
        forbid(options);
        options.token_pieces = pieces;
        differs[static_cast<size_t>(g.rank())] = replays_that_differ(p, g, options, 50);
      });
      for (size_t r = 0; r < differs.size(); ++r)
        EXPECT_EQ(differs[r], -1) << strategy << ", " << pieces << " pieces: rank " << r
                                  << ", replay " << differs[r];
    }
}

TEST_P(NcclRanks, ExactSizesAreRefusedWhileAGraphIsCapturedAndTheLayerGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const int n = GetParam().num_ranks;
  const auto p = random_problem(
      small_config(), n, [](int r) { return int64_t{20} + r; }, Skew::Balanced, 73);
  const auto expected = run_layer(p, GetParam(), "contiguous", forbid);
  Said said(n);
  std::vector<char> good(static_cast<size_t>(n));
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    auto options = options_of(p, g, "contiguous");
    forbid_and_count(options);
    const RankLayer rank(p, g, options);
    g.everyone();
    rank.run();
    SWITCHYARD_CUDA_CHECK(cudaStreamBeginCapture(g.stream, cudaStreamCaptureModeThreadLocal));
    said.listen(g.rank(), [&] { rank.layer->forward(rank.args()); });
    cudaGraph_t graph = nullptr;
    SWITCHYARD_CUDA_CHECK(cudaStreamEndCapture(g.stream, &graph));
    SWITCHYARD_CUDA_CHECK(cudaGraphDestroy(graph));
    good[static_cast<size_t>(g.rank())] = rank.run() == expected[static_cast<size_t>(g.rank())];
    g.everyone();
  });
  for (size_t r = 0; r < good.size(); ++r) {
    EXPECT_EQ(said.codes[r], Errc::Unsupported) << said.messages[r];
    EXPECT_NE(said.messages[r].find("host_counts=on over NCCL"), std::string::npos)
        << said.messages[r];
    EXPECT_TRUE(good[r]) << "rank " << r;
  }
}

// ---- measuring

// By names of parts, on rank 0; the outputs of what was measured are those of a forward.
std::map<std::string, OpTime> measured(const LayerProblem& p, const Placement& place,
                                       const std::string& strategy, const RankBits& expected,
                                       const std::function<void(LayerOptions&)>& change = {}) {
  std::map<std::string, OpTime> lines;
  std::vector<char> good(static_cast<size_t>(place.num_ranks));
  run_gpu_ranks(place, [&](GpuRank& g) {
    auto options = options_of(p, g, strategy);
    if (change) change(options);
    const RankLayer rank(p, g, options);
    rank.poison();
    g.everyone();
    const auto times = measure_forward(*rank.layer, rank.args(), *g.backend,
                                       {.repeat = 3, .meet = [&g] { g.everyone(); }});
    const auto at = static_cast<size_t>(g.rank());
    good[at] = rank.bits() == expected[at];
    for (const auto& time : times)
      if (g.rank() == 0) lines[time.op] = time;
    g.everyone();
  });
  for (const char each : good) EXPECT_TRUE(each) << strategy;
  return lines;
}

TEST_P(NcclRanks, PartsOfAForwardAreMeasuredAsOverPeerMemory) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int r) { return int64_t{40} + r; }, Skew::Zipf, 77);
  for (const std::string strategy : {"normal+contiguous", "all_gather+masked"}) {
    const auto expected = run_layer(p, GetParam(), strategy);
    const auto peers = measured(p, GetParam(), strategy, expected);
    const auto nccl = measured(p, GetParam(), strategy, expected, forbid);
    ASSERT_EQ(nccl.size(), 4u);
    for (const auto& [op, time] : nccl) {
      ASSERT_TRUE(peers.contains(op)) << op;
      EXPECT_GT(time.us, 0) << op;
      EXPECT_EQ(time.flops, peers.at(op).flops) << strategy << ", " << op;
    }
    for (const char* op : {"experts", "layer_given_routing"}) {
      EXPECT_GT(nccl.at(op).flops, 0) << op;
      EXPECT_EQ(nccl.at(op).bytes, peers.at(op).bytes) << strategy << ", " << op;
    }
    EXPECT_FALSE(nccl.at("layer_given_routing").eager);
    if (strategy == "all_gather+masked") continue;  // its sizes need no counts
    const auto exact = measured(p, GetParam(), strategy, expected, forbid_and_count);
    ASSERT_EQ(exact.size(), 1u);
    EXPECT_TRUE(exact.at("layer_given_routing").eager);
    EXPECT_EQ(exact.at("layer_given_routing").bytes, peers.at("layer_given_routing").bytes);
  }
}

// ---- layers of one communicator

// Two layers with the same weights, in blocks and in exact sizes.
struct TwoLayers {
  TwoLayers(const LayerProblem& p, GpuRank& g) : problem(p), gpu(g) {}
  void make_first() { make(first, "contiguous", forbid); }
  void make_second() { make(second, "masked", forbid_and_count); }
  void make(std::optional<RankLayer>& layer, const std::string& strategy,
            void (*change)(LayerOptions&)) const {
    auto options = options_of(problem, gpu, strategy);
    change(options);
    layer.emplace(problem, gpu, options);
  }

  const LayerProblem& problem;
  GpuRank& gpu;
  std::optional<RankLayer> first, second;
};

LayerProblem problem_of_layers(int num_ranks) {
  return random_problem(
      small_config(), num_ranks, [](int r) { return int64_t{50} + r; }, Skew::Zipf, 51);
}

// On every rank, with the bits that its layers should give.
void with_two_layers(
    const Placement& place,
    const std::function<void(TwoLayers&, const std::vector<uint16_t>& expected)>& body) {
  const auto p = problem_of_layers(place.num_ranks);
  const auto expected = run_layer(p, place, "contiguous");
  run_gpu_ranks(place, [&](GpuRank& g) {
    TwoLayers layers(p, g);
    body(layers, expected[static_cast<size_t>(g.rank())]);
    g.everyone();
  });
}

int64_t num_threads() {
  namespace fs = std::filesystem;
  return std::distance(fs::directory_iterator("/proc/self/task"), {});
}

// NCCL has threads for each of its communicators, and so has the library.
TEST_P(NcclRanks, ASecondLayerTakesTheConnectionOfTheFirst) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  with_two_layers(GetParam(), [](TwoLayers& layers, const std::vector<uint16_t>& expected) {
    GpuRank& g = layers.gpu;
    layers.make_first();
    EXPECT_EQ(layers.first->run(), expected);
    g.everyone();
    const int64_t threads = num_threads();
    g.everyone();
    layers.make_second();
    EXPECT_EQ(layers.second->run(), expected);
    g.everyone();
    EXPECT_TRUE(comes([&] { return num_threads() <= threads; }, std::chrono::seconds(5)))
        << num_threads() << " threads, " << threads << " before";
    {
      Graph graph(g.stream, [&] { layers.first->layer->forward(layers.first->args()); });
      for (int i = 0; i < 5; ++i) {
        layers.first->poison(), layers.second->poison();
        layers.second->layer->forward(layers.second->args());  // both in flight
        graph.launch(g.stream);
        layers.second->layer->wait(g.stream);
        EXPECT_EQ(layers.first->bits(), expected) << i;
        EXPECT_EQ(layers.second->bits(), expected) << i;
      }
    }
    layers.first.reset();
    EXPECT_EQ(layers.second->run(), expected) << "without the first";
  });
}

TEST_P(NcclRanks, ATensorParallelGroupTakesTheConnectionOfAll) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const auto alone = problem_of_layers(GetParam().num_ranks);
  auto shared = alone;
  shared.tp_size = 2;
  for (size_t r = 1; r < shared.hidden.size(); r += 2) {
    shared.hidden[r] = shared.hidden[r - 1];
    shared.ids[r] = shared.ids[r - 1];
    shared.router_weights[r] = shared.router_weights[r - 1];
  }
  const auto expected = run_layer(shared, GetParam(), "normal+contiguous");
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    auto options = options_of(alone, g, "normal+contiguous");
    forbid(options);
    const RankLayer first(alone, g, options);
    g.everyone();
    const int64_t threads = num_threads();
    g.everyone();
    options.tp_size = 2;
    const RankLayer second(shared, g, options);
    EXPECT_EQ(second.run(), expected[static_cast<size_t>(g.rank())]);
    EXPECT_TRUE(comes([&] { return num_threads() <= threads; }, std::chrono::seconds(5)))
        << num_threads() << " threads, " << threads << " before";
    first.run();
    g.everyone();
  });
}

TEST_P(NcclRanks, LayersThatRanksMakeAndDestroyInOtherOrdersWork) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  with_two_layers(GetParam(), [](TwoLayers& layers, const std::vector<uint16_t>& expected) {
    GpuRank& g = layers.gpu;
    layers.make_first();
    EXPECT_EQ(layers.first->run(), expected);
    if (g.rank() == 0) layers.first.reset();
    layers.make_second();  // not all have the connection of the first any more
    EXPECT_EQ(layers.second->run(), expected);
    g.everyone();  // the last thread that lets go of a connection frees what all had, on every GPU
    layers.first.reset();
    g.everyone();
    EXPECT_EQ(layers.second->run(), expected);
    layers.make_first();
    if (g.rank() == 0) layers.second.reset();
    EXPECT_EQ(layers.first->run(), expected);
  });
}

TEST_P(NcclRanks, AFaultIsOneOfEveryLayerOfTheCommunicator) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const int n = GetParam().num_ranks, last = n - 1;
  const auto p = problem_of_layers(n);
  Said first(n), second(n);
  std::atomic<int> waiting = 0;
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    TwoLayers layers(p, g);
    layers.make_first(), layers.make_second();
    layers.first->run(), layers.second->run();
    g.everyone();
    if (g.rank() == last) return abort_once_they_wait(g, waiting, last);
    ++waiting;
    first.listen(g.rank(), [&] { layers.first->run(); });
    second.listen(g.rank(), [&] { layers.second->run(); });
  });
  for (size_t r = 0; r < static_cast<size_t>(last); ++r)
    for (const Said* said : {&first, &second}) {
      EXPECT_EQ(said->codes[r], Errc::Transport);
      EXPECT_NE(said->messages[r].find("had enough"), std::string::npos) << said->messages[r];
    }
  EXPECT_EQ(run_layer(p, GetParam(), "contiguous", forbid), run_layer(p, GetParam(), "contiguous"))
      << "a new communicator works";
}

// ---- what cannot be, and faults

TEST(NcclConditions, TwoRanksOnOneGpuAreRefusedOnEveryRank) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(1);
  const auto p = random_problem(
      small_config(), 2, [](int) { return int64_t{4}; }, Skew::Balanced, 1);
  Said said(2);
  run_gpu_ranks({2, 1}, [&](GpuRank& g) {
    auto options = options_of(p, g, "masked");
    forbid(options);
    said.listen(g.rank(), [&] { const RankLayer rank(p, g, options); });
    g.everyone();
  });
  for (size_t r = 0; r < 2; ++r) {
    EXPECT_EQ(said.codes[r], Errc::Unsupported) << said.messages[r];
    EXPECT_NE(said.messages[r].find("ranks 0 and 1 are on one GPU"), std::string::npos)
        << said.messages[r];
  }
}

constexpr LocalRanksOptions kShort{.deadline = std::chrono::milliseconds(12000)};

TEST_P(NcclRanks, ARankThatNeverComesIsNamedAndTheProcessGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const int n = GetParam().num_ranks, missing = n - 1;
  const auto p = random_problem(
      small_config(), n, [](int) { return int64_t{40}; }, Skew::Balanced, 81);
  const auto expected = run_layer(p, GetParam(), "contiguous", forbid);
  Said said(n);
  std::atomic<int> told = 0;
  std::vector<char> stays(static_cast<size_t>(n)), is_nan(static_cast<size_t>(n));
  const auto start = std::chrono::steady_clock::now();
  run_gpu_ranks(
      GetParam(),
      [&](GpuRank& g) {
        auto options = options_of(p, g, "contiguous");
        forbid(options);
        const RankLayer rank(p, g, options);
        const auto at = static_cast<size_t>(g.rank());
        g.everyone();
        rank.run();
        g.everyone();
        if (g.rank() == missing) {
          comes([&] { return told >= missing; }, std::chrono::seconds(90));
          return;
        }
        said.listen(g.rank(), [&] { rank.call(rank.args()); });
        const auto bits = rank.bits();
        is_nan[at] =
            std::all_of(bits.begin(), bits.end(), [](uint16_t b) { return (b & 0x7fff) > 0x7f80; });
        try {
          rank.layer->forward(rank.args());
        } catch (const Error& e) {
          stays[at] = e.code() == Errc::Transport;
        }
        ++told;
      },
      kShort);
  EXPECT_LT(seconds_since(start), 90);
  for (size_t r = 0; r < static_cast<size_t>(missing); ++r) {
    EXPECT_EQ(said.codes[r], Errc::Transport) << "rank " << r;
    EXPECT_NE(said.messages[r].find("rank " + std::to_string(missing) + " did not come"),
              std::string::npos)
        << said.messages[r];
    EXPECT_TRUE(is_nan[r]) << "output of rank " << r;
    EXPECT_TRUE(stays[r]) << "the error stays on rank " << r;
  }
  EXPECT_EQ(run_layer(p, GetParam(), "contiguous", forbid), expected) << "a new communicator works";
}

TEST_P(NcclRanks, AnAbortOfTheHostEndsTheWaitOfEveryRankAtOnce) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const int n = GetParam().num_ranks, missing = n - 1;
  const auto p = random_problem(
      small_config(), n, [](int) { return int64_t{40}; }, Skew::Balanced, 91);
  for (const bool exact : {false, true}) {
    Said said(n);
    std::atomic<int> waiting = 0;
    std::atomic<double> took = 0;
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      auto options = options_of(p, g, "masked");
      forbid(options);
      options.host_counts = exact;
      const RankLayer rank(p, g, options);
      g.everyone();
      rank.run();
      g.everyone();
      if (g.rank() == missing) return abort_once_they_wait(g, waiting, missing);
      ++waiting;
      const auto begin = std::chrono::steady_clock::now();
      said.listen(g.rank(), [&] { rank.call(rank.args()); });
      took = std::max(took.load(), seconds_since(begin));
    });
    EXPECT_LT(took, 15) << "the deadline is 30 s";
    for (size_t r = 0; r < static_cast<size_t>(missing); ++r)
      EXPECT_NE(said.messages[r].find("this rank has had enough"), std::string::npos)
          << said.messages[r] << (exact ? ", exact sizes" : ", blocks");
  }
}

// A graph that replays is watched while the host waits for it.
TEST_P(NcclRanks, AReplayThatARankDoesNotJoinEndsTheWait) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const int n = GetParam().num_ranks, missing = n - 1;
  const auto p = random_problem(
      small_config(), n, [](int) { return int64_t{40}; }, Skew::Balanced, 95);
  Said said(n);
  std::atomic<int> told = 0;
  const auto start = std::chrono::steady_clock::now();
  run_gpu_ranks(
      GetParam(),
      [&](GpuRank& g) {
        auto options = options_of(p, g, "contiguous");
        forbid(options);
        const RankLayer rank(p, g, options);
        g.everyone();
        rank.run();
        g.everyone();
        Graph graph(g.stream, [&] { rank.layer->forward(rank.args()); });
        graph.launch(g.stream);
        rank.layer->wait(g.stream);
        g.everyone();
        if (g.rank() == missing) {
          comes([&] { return told >= missing; }, std::chrono::seconds(90));
          return;
        }
        said.listen(g.rank(), [&] {
          graph.launch(g.stream);
          rank.layer->wait(g.stream);
        });
        ++told;
      },
      kShort);
  EXPECT_LT(seconds_since(start), 90);
  for (size_t r = 0; r < static_cast<size_t>(missing); ++r)
    EXPECT_NE(said.messages[r].find("rank " + std::to_string(missing) + " did not come"),
              std::string::npos)
        << said.messages[r];
}

TEST_P(NcclRanks, WhatOneRankGetsWrongEveryRankThrowsAndTheLayerGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const int n = GetParam().num_ranks;
  const auto p = random_problem(
      small_config(), n, [](int r) { return int64_t{20} + r; }, Skew::Balanced, 101);
  const auto expected = run_layer(p, GetParam(), "contiguous", forbid);
  for (const bool exact : {false, true}) {
    Said bad_id(n), bad_argument(n);
    std::vector<char> good(static_cast<size_t>(n));
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      auto options = options_of(p, g, "contiguous");
      forbid(options);
      options.host_counts = exact;
      const RankLayer rank(p, g, options);
      const int32_t outside = 1000;
      const Tensor first(rank.ids->view().data, DType::I32, {1}, DeviceKind::Cuda);
      int32_t before = 0;
      copy_to_host(*g.backend, &before, first, g.stream);
      g.everyone();
      if (g.rank() == 1) copy_to_device(*g.backend, first, &outside, g.stream);
      bad_id.listen(g.rank(), [&] { (void)rank.run(); });
      copy_to_device(*g.backend, first, &before, g.stream);
      bad_argument.listen(g.rank(), [&] {
        ForwardArgs args = rank.args();
        if (g.rank() == 1) args.output.shape = {1, 8};
        rank.call(args);
      });
      good[static_cast<size_t>(g.rank())] = rank.run() == expected[static_cast<size_t>(g.rank())];
      g.everyone();
    });
    for (size_t r = 0; r < good.size(); ++r) {
      EXPECT_EQ(bad_id.codes[r], Errc::BadRouting) << bad_id.messages[r];
      EXPECT_EQ(bad_argument.codes[r], Errc::ShapeMismatch) << bad_argument.messages[r];
      EXPECT_TRUE(good[r]) << "rank " << r;
    }
  }
}

// Blocks are of the bound, so ranks that give others may wait for each other in vain: an error on
// every rank in any case.
TEST_P(NcclRanks, BoundsThatDifferAreAnErrorOnEveryRank) {
  SWITCHYARD_SKIP_WITHOUT_NCCL(GetParam().num_devices);
  const int n = GetParam().num_ranks;
  const auto p = random_problem(
      small_config(), n, [](int) { return int64_t{40}; }, Skew::Balanced, 103);
  for (const std::string strategy : {"normal+contiguous", "all_gather+contiguous"}) {
    Said said(n);
    const auto start = std::chrono::steady_clock::now();
    try {
      run_gpu_ranks(
          GetParam(),
          [&](GpuRank& g) {
            auto options = options_of(p, g, strategy);
            options.max_tokens = 4000;
            forbid(options);
            const RankLayer rank(p, g, options);
            g.everyone();
            said.listen(g.rank(), [&] {
              ForwardArgs args = rank.args();
              args.max_tokens = g.rank() == 0 ? 4000 : 40;
              rank.call(args);
            });
          },
          kShort);
    } catch (const Error& e) {
      ADD_FAILURE() << strategy << ": " << e.what();
    }
    EXPECT_LT(seconds_since(start), 90) << strategy;
    for (size_t r = 0; r < static_cast<size_t>(n); ++r)
      EXPECT_TRUE(said.codes[r] == Errc::ShapeMismatch || said.codes[r] == Errc::Transport)
          << strategy << ", rank " << r << ": " << said.messages[r];
    RecordProperty(strategy, said.messages[0]);
  }
}

}  // namespace
}  // namespace switchyard::testing
