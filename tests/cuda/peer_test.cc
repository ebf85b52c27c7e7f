// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/peer_test.cc -- several ranks on GPUs: the dispatchers bit by bit against threads of
// the CPU, whole layers against float64, graphs, and peers that do not come.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "switchyard/oracle.h"
#include "testing/gpu_layers.h"

namespace switchyard::testing {
namespace {

const Placement kPlacements[] = {{2, 1}, {4, 1}, {2, 2}, {4, 2}, {4, 4}, {8, 8}};

// ---- dispatchers

class PeerCuda : public ::testing::TestWithParam<Placement> {};
INSTANTIATE_TEST_SUITE_P(Places, PeerCuda, ::testing::ValuesIn(kPlacements),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(PeerCuda, DispatchersGiveTheBitsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const int64_t hidden : {64, 200, 7168}) {
    if (small() && hidden == 7168) continue;
    for (const auto& c : dispatch_cases(GetParam().num_ranks, hidden))
      ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "")
          << name_of(c) << ", H=" << hidden;
  }
}

TEST_P(PeerCuda, RowsInF8AreThoseThatTheCpuQuantises) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const int64_t hidden : {64, 264, 7168}) {  // scales of 4, 12 and 224 bytes
    if (small() && hidden == 7168) continue;
    for (const auto& c : f8_dispatch_cases(GetParam().num_ranks, hidden))
      ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "")
          << name_of(c) << ", H=" << hidden;
  }
}

TEST_P(PeerCuda, ManyCallsOfRowsInF8) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const uint64_t seed : {60, 61}) {  // pushed, fetched
    auto c = random_calls(GetParam().num_ranks, small() ? 5 : 100, 300, seed);
    c.config.hidden = 272;
    c.options.rows = DType::F8E4m3;
    c.f8_experts = c.odd_rows = true;
    const auto expected = expected_outcomes(c);
    for (const int blocks : {0, 3}) {
      c.options.num_link_blocks = blocks;
      ASSERT_EQ(difference(c, expected, on_gpus(c, GetParam())), "") << seed << ", " << blocks;
    }
  }
}

// The host meets its peers before a kernel waits for them: what compute-sanitizer can run.
class PeerCudaOrdered : public PeerCuda {};
INSTANTIATE_TEST_SUITE_P(Places, PeerCudaOrdered, ::testing::ValuesIn(kPlacements),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(PeerCudaOrdered, DispatchersGiveTheBitsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  auto cases = dispatch_cases(GetParam().num_ranks, 64);
  for (auto& c : f8_dispatch_cases(GetParam().num_ranks, 64)) cases.push_back(std::move(c));
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

TEST_P(PeerCuda, ManyCallsOfAnyBoundOnOneWorkspace) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int num_calls = small() ? 5 : 200;
  for (const int64_t capacity : {24, 3000}) {
    const auto c = random_calls(GetParam().num_ranks, capacity > 24 ? num_calls / 10 : num_calls,
                                capacity, 17);
    ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "") << capacity;
  }
}

TEST_P(PeerCuda, ManyCallsOnRowsThatStandInTheWindow) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  auto c = random_calls(GetParam().num_ranks, small() ? 5 : 100, 300, 19);
  c.options.fetch_rows = c.in_place = true;
  c.leave_out_own_rows();
  ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "");
}

TEST_P(PeerCuda, TheNumberOfBlocksChangesNoBit) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const int64_t hidden : {64, 200, 7168}) {
    if (small() && hidden == 7168) continue;
    auto c = random_calls(GetParam().num_ranks, 10, 300, 23);
    c.config.hidden = hidden;
    const auto expected = expected_outcomes(c);
    for (const int blocks : {1, 3, 50}) {
      c.options.num_link_blocks = blocks;
      ASSERT_EQ(difference(c, expected, on_gpus(c, GetParam())), "")
          << blocks << " blocks, H=" << hidden;
    }
  }
}

// With what shared experts add.
TEST_P(PeerCuda, TheNumberOfBlocksChangesNoBitOfALayer) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks,
      [](int r) { return r == 1 ? int64_t{20} : int64_t{300}; }, Skew::Zipf, 47);
  const auto expected = run_layer(p, GetParam(), "contiguous");
  for (const int blocks : {1, 5})
    EXPECT_EQ(run_layer(p, GetParam(), "contiguous", [&](auto& o) { o.num_link_blocks = blocks; }),
              expected)
        << blocks << " blocks";
}

TEST_P(PeerCuda, EpochsCrossTheEndOfTheirRange) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  auto c = random_calls(GetParam().num_ranks, 12, 24, 29);
  c.first_epoch = 0xfffffffau;
  ASSERT_EQ(difference(c, expected_outcomes(c), on_gpus(c, GetParam())), "");
}

// ---- layers

class PeerCudaFamilies : public ::testing::TestWithParam<std::tuple<size_t, Placement>> {};
INSTANTIATE_TEST_SUITE_P(All, PeerCudaFamilies,
                         ::testing::Combine(::testing::Range<size_t>(0,
                                                                     shared_oracle_cases().size()),
                                            ::testing::ValuesIn(kPlacements)),
                         [](const auto& info) {
                           return oracle_test_name(std::get<0>(info.param)) +
                                  name_of(std::get<1>(info.param));
                         });

TEST_P(PeerCudaFamilies, StayWithinFourThousandthsAndStrategiesAgreeToTheBit) {
  const auto& [index, place] = GetParam();
  SWITCHYARD_SKIP_WITHOUT_GPUS(place.num_devices);
  const auto& c = shared_oracle_cases()[index];
  const auto p = problem_of(c, place.num_ranks, 1);
  const auto base = joined(p, run_layer(p, place, "normal+contiguous"));
  const auto d = compare(base.view(), c.expected());
  EXPECT_LE(d.rel_error, 4e-3);
  EXPECT_LE(d.max_row_error, 2e-2) << "row " << d.worst_row;
  for (const std::string strategy : {"normal+masked", "normal+hybrid", "all_gather+contiguous"})
    EXPECT_TRUE(same_bits(joined(p, run_layer(p, place, strategy)), base)) << strategy;
  const auto pushed =
      run_layer(p, place, "normal+contiguous", [](auto& o) { o.fetch_rows = false; });
  EXPECT_TRUE(same_bits(joined(p, pushed), base)) << "pushed";
  const auto tp = problem_of(c, place.num_ranks, place.num_ranks);
  EXPECT_TRUE(same_bits(joined(tp, run_layer(tp, place, "local+contiguous")), base)) << "tp = P";
  const auto sliced = problem_of(c, place.num_ranks, 2);
  EXPECT_TRUE(same_bits(joined(sliced, run_layer(sliced, place, "normal+masked")), base))
      << "tp = 2";
}

Buffer<double> oracle_of(const LayerProblem& p) {
  const auto weights = p.weights(1, 0);
  int64_t tokens = 0;
  for (const auto& x : p.hidden) tokens += x.view().dim(0);
  Buffer<double> expected({tokens, p.config.hidden});
  int64_t first = 0;
  for (size_t r = 0; r < p.hidden.size(); ++r) {
    const int64_t t = p.hidden[r].view().dim(0);
    if (t > 0)
      oracle_forward(expected.view().rows(first, t), p.config, weights, p.hidden[r].view(),
                     p.ids[r].view(), p.router_weights[r].view());
    first += t;
  }
  return expected;
}

TEST_P(PeerCuda, LayersMatchFloat64ForEverySkewAndUnevenRanks) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const auto skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::SameExperts,
                          Skew::FirstHalfOnly, Skew::NoExpert, Skew::SomeMissing})
    for (const int64_t most : {1, 300}) {
      const auto p = random_problem(
          small_config(), GetParam().num_ranks,
          [&](int r) { return r == 1 ? 0 : std::max<int64_t>(0, most - r * (most / 5)); }, skew,
          41);
      const auto expected = oracle_of(p);
      const auto base = joined(p, run_layer(p, GetParam(), "contiguous"));
      const auto d = compare(base.view(), expected.view());
      EXPECT_LE(d.rel_error, 4e-3) << skew_name(skew) << ", " << most << ", row " << d.worst_row;
      EXPECT_TRUE(same_bits(joined(p, run_layer(p, GetParam(), "masked")), base));
    }
}

TEST_P(PeerCuda, PiecesOfACallChangeNoBitAndAGraphHoldsThem) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks,
      [](int r) { return r == 1 ? int64_t{0} : std::max(int64_t{0}, int64_t{130} - 20 * r); },
      Skew::Zipf, 45);
  for (const std::string strategy : {"contiguous", "masked", "all_gather+hybrid"}) {
    const auto whole = run_layer(p, GetParam(), strategy, [](auto& o) { o.token_pieces = 1; });
    for (const int pieces : {2, 5}) {
      EXPECT_EQ(run_layer(p, GetParam(), strategy, [&](auto& o) { o.token_pieces = pieces; }),
                whole)
          << strategy << ", " << pieces << " pieces";
      std::vector<char> same(whole.size());
      run_gpu_ranks(GetParam(), [&](GpuRank& g) {
        auto options = options_of(p, g, strategy);
        options.token_pieces = pieces;
        const RankLayer rank(p, g, options);
        g.everyone();
        rank.run();
        g.everyone();
        Graph graph(g.stream, [&] { rank.layer->forward(rank.args()); });
        g.everyone();
        const auto at = static_cast<size_t>(g.rank());
        same[at] = 1;
        for (int i = 0; i < (small() ? 2 : 50); ++i) {
          rank.poison();
          graph.launch(g.stream);
          rank.layer->wait(g.stream);
          same[at] &= rank.bits() == whole[at] ? 1 : 0;
        }
        g.everyone();
      });
      for (const char each : same) EXPECT_TRUE(each) << strategy << ", " << pieces << " pieces";
    }
  }
}

TEST_P(PeerCudaOrdered, LayersMatchFloat64AndGiveTheBitsOfLayersThatAreNot) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks,
      [](int r) { return r == 1 ? 0 : std::max(int64_t{0}, int64_t{50} - 9 * r); }, Skew::Balanced,
      47);
  const auto expected = oracle_of(p);
  for (const std::string strategy : {"contiguous", "masked", "all_gather+hybrid"}) {
    const auto out =
        joined(p, run_layer(p, GetParam(), strategy, [](auto& o) { o.host_ordered = true; }));
    EXPECT_LE(compare(out.view(), expected.view()).rel_error, 4e-3) << strategy;
    if (small()) continue;
    EXPECT_TRUE(same_bits(out, joined(p, run_layer(p, GetParam(), strategy)))) << strategy;
  }
}

// Where threads share a GPU, the driver may put the first kernels of one's new stream behind the
// other's wait. Four programs at a time show it best.
TEST_P(PeerCuda, CallsMayComeOnNewStreams) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int) { return int64_t{40}; }, Skew::Balanced, 71);
  const auto expected = run_layer(p, GetParam(), "contiguous");
  std::vector<char> same(expected.size(), 1);
  run_gpu_ranks(GetParam(),
                [&](GpuRank& g) {
                  const RankLayer rank(p, g, options_of(p, g, "contiguous"));
                  const auto at = static_cast<size_t>(g.rank());
                  for (int i = 0; i < (small() ? 2 : 20); ++i) {
                    rank.poison();
                    const Stream stream;
                    ForwardArgs args = rank.args();
                    args.stream = stream.get();
                    g.everyone();
                    rank.layer->forward(args);
                    rank.layer->wait(args.stream);
                    same[at] &= rank.bits() == expected[at] ? 1 : 0;
                    g.everyone();
                  }
                },
                {.deadline = std::chrono::milliseconds(5000)});
  for (const char each : same) EXPECT_TRUE(each);
}

// While nobody waits. Of ranks with a GPU each more launches than a queue holds; with threads that
// share one, what a launch into a full queue holds up was not tried.
TEST_P(PeerCuda, ManyCallsMayBeEnqueuedAhead) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int r) { return 30 - int64_t{r}; }, Skew::Balanced,
      73);
  const auto expected = run_layer(p, GetParam(), "contiguous");
  for (const char each : run_ahead(p, GetParam(), "contiguous", expected)) EXPECT_TRUE(each);
}

TEST_P(PeerCuda, CallsOfTwoLayersInFlightDoNotMeet) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto tokens = [](int r) { return int64_t{60} - 20 * (r % 2); };
  const int n = GetParam().num_ranks;
  const auto a = random_problem(small_config(), n, tokens, Skew::Balanced, 51);
  const auto b = random_problem(small_config(), n, tokens, Skew::Zipf, 61);
  const auto expected_a = run_layer(a, GetParam(), "contiguous");
  const auto expected_b = run_layer(b, GetParam(), "masked");
  std::vector<char> good(static_cast<size_t>(n));
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    const RankLayer first(a, g, options_of(a, g, "contiguous"));
    const RankLayer second(b, g, options_of(b, g, "masked"));
    first.poison(), second.poison();
    g.everyone();
    for (int i = 0; i < 20; ++i) {
      first.layer->forward(first.args());
      second.layer->forward(second.args());
    }
    first.layer->wait(g.stream);
    second.layer->wait(g.stream);
    const auto at = static_cast<size_t>(g.rank());
    good[at] = first.bits() == expected_a[at] && second.bits() == expected_b[at];
    g.everyone();
  });
  for (const char each : good) EXPECT_TRUE(each);
}

// ---- any layer, any call

constexpr int64_t kRandomCapacity = 48;

struct RandomLayer {
  MoeConfig config;
  std::string strategy;
  bool fetch_rows;
  uint64_t seed;

  RandomLayer(std::mt19937_64& rng, int num_ranks) {
    const auto one_of = [&](auto... values) {
      const int64_t all[] = {values...};
      return all[rng() % sizeof...(values)];
    };
    config.hidden = one_of(64, 128, 264, 512);
    config.intermediate = one_of(32, 64, 104, 256);
    config.num_experts = num_ranks * one_of(1, 4, 6, 16);
    config.top_k = 1 + static_cast<int64_t>(
                           rng() % static_cast<uint64_t>(std::min<int64_t>(config.num_experts, 8)));
    if (rng() % 2 == 0) config.gate.scoring = Scoring::Sigmoid;
    const char* const names[] = {"normal+contiguous", "normal+masked", "normal+hybrid",
                                 "low_latency+masked", "all_gather+contiguous"};
    strategy = names[rng() % std::size(names)];
    fetch_rows = rng() % 2 != 0;
    seed = rng();
  }
};

// Over all calls of a layer together, and of the worst row of any.
struct RandomErrors {
  double square_error = 0, square = 0, worst_row = 0;
  double rel_error() const { return square > 0 ? std::sqrt(square_error / square) : square_error; }

  void add(const Difference& d, const Buffer<double>& expected) {
    double sum = 0;
    for (int64_t i = 0; i < expected.count(); ++i) sum += expected[i] * expected[i];
    square += sum;
    square_error += d.rel_error * d.rel_error * sum;
    worst_row = std::isnan(d.rel_error) ? HUGE_VAL : std::max(worst_row, d.max_row_error);
  }
};

// `num_calls` calls of one layer on this rank; all ranks draw alike.
RandomErrors random_calls_of(GpuRank& g, const RandomLayer& drawn, int num_calls) {
  const MoeConfig& config = drawn.config;
  const int n = g.comm.size();
  const auto weights =
      to_device(random_weights(config, n, g.rank(), drawn.seed), config, n, *g.backend);
  const auto whole = random_weights(config, 1, 0, drawn.seed);
  LayerOptions o;
  o.max_tokens = kRandomCapacity;
  o.strategy = drawn.strategy;
  o.fetch_rows = drawn.fetch_rows;
  o.device = DeviceKind::Cuda;
  o.backend = g.backend;
  o.masked_max_tokens = 30;
  const auto layer = MoeLayer::create(config, weights, g.comm, o);
  const Shape rows{kRandomCapacity, config.hidden}, slots{kRandomCapacity, config.top_k};
  const OnDevice hidden(*g.backend, DType::Bf16, rows), output(*g.backend, DType::Bf16, rows),
      ids(*g.backend, DType::I32, slots), router_weights(*g.backend, DType::F32, slots);
  const size_t gate_bytes = layer->gate().workspace_bytes(kRandomCapacity);
  const auto scratch = allocate(*g.backend, gate_bytes);
  g.everyone();  // nobody waits for a peer that still allocates

  std::mt19937_64 rng(drawn.seed);
  RandomErrors errors;
  for (int i = 0; i < num_calls; ++i) {
    std::vector<int64_t> tokens;
    for (int r = 0; r < n; ++r)
      tokens.push_back(rng() % 4 == 0 ? 0 : static_cast<int64_t>(rng() % (kRandomCapacity + 1)));
    const int64_t most = *std::max_element(tokens.begin(), tokens.end());
    const int64_t bound =
        most + static_cast<int64_t>(rng() % static_cast<uint64_t>(kRandomCapacity - most + 1));
    const bool own_gate = rng() % 2 == 0;
    constexpr Skew kSkews[] = {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::FirstHalfOnly,
                               Skew::SomeMissing};
    const Skew skew = kSkews[rng() % std::size(kSkews)];
    const uint64_t seed = rng() + 10 * static_cast<uint64_t>(g.rank());

    const int64_t t = tokens[static_cast<size_t>(g.rank())];
    const auto x = random_bf16({t, config.hidden}, seed);
    const Tensor in = hidden.view().rows(0, t), out = output.view().rows(0, t);
    const Tensor chosen = ids.view().rows(0, t), weight = router_weights.view().rows(0, t);
    copy_to_device(*g.backend, in, x.data(), g.stream);
    copy_to_device(*g.backend, out, Buffer<Bf16>(out.shape).data(), g.stream);
    ForwardArgs args{.output = out, .hidden = in, .max_tokens = bound, .stream = g.stream};
    if (own_gate) {
      layer->gate().choose(chosen, weight, in, {scratch.get(), gate_bytes}, g.stream);
    } else {
      const auto given = random_ids(t, config.num_experts, config.top_k, skew, seed + 1);
      const auto given_weights = random_f32({t, config.top_k}, seed + 2, 0.1f, 1.0f);
      copy_to_device(*g.backend, chosen, given.data(), g.stream);
      copy_to_device(*g.backend, weight, given_weights.data(), g.stream);
      args.ids = chosen, args.weights = weight;
    }
    layer->forward(args);
    layer->wait(g.stream);
    if (t == 0) continue;
    const auto bits = read<uint16_t>(*g.backend, out, g.stream);
    const auto seen_ids = read<int32_t>(*g.backend, chosen, g.stream);
    const auto seen_weights = read<float>(*g.backend, weight, g.stream);
    Buffer<double> expected(out.shape);
    oracle_forward(expected.view(), config, whole, x.view(),
                   ConstTensor(seen_ids.data(), {t, config.top_k}),
                   ConstTensor(seen_weights.data(), {t, config.top_k}));
    errors.add(compare(ConstTensor(bits.data(), DType::Bf16, out.shape), expected.view()),
               expected);
  }
  g.everyone();
  return errors;
}

TEST_P(PeerCuda, RandomLayersAndCallsMatchFloat64WithTheExpertsThatTheGpuChose) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const bool apart = GetParam().num_ranks == GetParam().num_devices;
  const int num_layers = small() ? 2 : apart ? 50 : 5, num_calls = small() ? 4 : 20;
  std::mt19937_64 rng(20261125);
  for (int i = 0; i < num_layers; ++i) {
    const RandomLayer drawn(rng, GetParam().num_ranks);
    std::vector<RandomErrors> errors(static_cast<size_t>(GetParam().num_ranks));
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      errors[static_cast<size_t>(g.rank())] = random_calls_of(g, drawn, num_calls);
    });
    for (size_t r = 0; r < errors.size(); ++r) {
      SCOPED_TRACE(::testing::Message()
                   << "layer " << i << ", rank " << r << ", " << drawn.strategy << ", H "
                   << drawn.config.hidden << ", I " << drawn.config.intermediate << ", E "
                   << drawn.config.num_experts << ", K " << drawn.config.top_k);
      ASSERT_LE(errors[r].rel_error(), 4e-3);
      ASSERT_LE(errors[r].worst_row, 2e-2);
    }
  }
}

// ---- hidden states that stand where peers read them

TEST_P(PeerCuda, HiddenStatesInInputRowsGiveTheSameBitsAlsoInAGraph) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int r) { return r == 1 ? int64_t{0} : int64_t{70}; },
      Skew::Zipf, 75);
  for (const std::string strategy : {"contiguous", "masked"}) {
    std::vector<int> differs(static_cast<size_t>(GetParam().num_ranks), -2);
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      const RankLayer rank(p, g, options_of(p, g, strategy));
      const int64_t tokens = rank.hidden.view().dim(0);
      ForwardArgs in_place = rank.args();
      const Tensor place = rank.layer->input_rows().rows(0, tokens);
      ASSERT_NE(place.data, nullptr);
      in_place.hidden = place;
      g.everyone();
      rank.run();
      g.everyone();
      {
        Graph graph(g.stream, [&] { rank.layer->forward(in_place); });
        g.everyone();
        differs[static_cast<size_t>(g.rank())] = -1;
        for (int i = 0; i < (small() ? 2 : 20); ++i) {
          const auto x = random_bf16({tokens, p.config.hidden}, static_cast<uint64_t>(1000 + i));
          copy_to_device(*g.backend, rank.hidden.view(), x.data(), g.stream);
          const auto expected = rank.run();
          // A caller writes its rows before each call.
          const auto fill = [&] {
            g.backend->ops().run(Copy{place, rank.hidden.view()}, g.stream);
          };
          fill();
          const auto eager = rank.run(in_place);
          fill();
          rank.poison();
          graph.launch(g.stream);
          rank.layer->wait(g.stream);
          if (eager != expected || rank.bits() != expected)
            differs[static_cast<size_t>(g.rank())] = i;
        }
        g.everyone();
      }
    });
    for (size_t r = 0; r < differs.size(); ++r)
      EXPECT_EQ(differs[r], -1) << strategy << ": rank " << r << ", call " << differs[r];
  }
}

TEST_P(PeerCuda, HiddenStatesThatOverlapInputRowsAreRefusedOnEveryRankAndTheLayerGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int n = GetParam().num_ranks;
  const auto p = random_problem(
      small_config(), n, [](int r) { return int64_t{20} + r; }, Skew::Balanced, 103);
  const auto expected = run_layer(p, GetParam(), "contiguous");
  Said said(n);
  std::vector<char> good(static_cast<size_t>(n));
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    const RankLayer rank(p, g, options_of(p, g, "contiguous"));
    ForwardArgs args = rank.args();
    if (g.rank() == 0) args.hidden = rank.layer->input_rows().rows(1, args.hidden.dim(0));
    g.everyone();
    said.listen(g.rank(), [&] { rank.call(args); });
    good[static_cast<size_t>(g.rank())] = rank.run() == expected[static_cast<size_t>(g.rank())];
    g.everyone();
  });
  for (size_t r = 0; r < good.size(); ++r) {
    EXPECT_EQ(said.codes[r], Errc::ShapeMismatch) << said.messages[r];
    EXPECT_TRUE(good[r]) << "rank " << r;
  }
}

// ---- graphs

TEST_P(PeerCuda, AGraphReplaysWithOtherRoutingAndEqualsEager) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const auto p = random_problem(
      small_config(), GetParam().num_ranks, [](int r) { return r == 1 ? int64_t{0} : int64_t{70}; },
      Skew::Balanced, 71);
  for (const std::string strategy : {"contiguous", "masked", "all_gather+hybrid"}) {
    std::vector<int> differs(static_cast<size_t>(GetParam().num_ranks), -2);
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      differs[static_cast<size_t>(g.rank())] =
          replays_that_differ(p, g, options_of(p, g, strategy), small() ? 3 : 100);
    });
    for (size_t r = 0; r < differs.size(); ++r)
      EXPECT_EQ(differs[r], -1) << strategy << ": rank " << r << ", replay " << differs[r];
  }
}

// ---- faults

TEST_P(PeerCuda, ARankThatNeverComesIsNamedAndTheProcessGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int n = GetParam().num_ranks, missing = n - 1;
  const auto p = random_problem(
      small_config(), n, [](int) { return int64_t{40}; }, Skew::Balanced, 81);
  const auto expected = run_layer(p, GetParam(), "contiguous");
  for (int round = 0; round < (small() ? 1 : 10); ++round) {
    Said said(n);
    std::atomic<int> waiting = 0;
    const auto start = std::chrono::steady_clock::now();
    run_gpu_ranks(GetParam(),
                  [&](GpuRank& g) {
                    const RankLayer rank(p, g, options_of(p, g, "contiguous"));
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
                    EXPECT_THROW(rank.layer->forward(rank.args()), Error) << "the error stays";
                  },
                  {.deadline = std::chrono::milliseconds(1000)});
    EXPECT_LT(seconds_since(start), 20);
    for (int r = 0; r < missing; ++r) {
      EXPECT_EQ(said.codes[static_cast<size_t>(r)], Errc::Transport) << "rank " << r;
      EXPECT_NE(said.messages[static_cast<size_t>(r)].find(
                    "dispatch: rows of rank " + std::to_string(missing) + " did not come"),
                std::string::npos)
          << said.messages[static_cast<size_t>(r)];
    }
    EXPECT_EQ(run_layer(p, GetParam(), "contiguous"), expected) << "a new communicator works";
  }
}

TEST_P(PeerCuda, AnAbortOfTheHostEndsTheWaitOfEveryRankAtOnce) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int n = GetParam().num_ranks, missing = n - 1;
  const auto p = random_problem(
      small_config(), n, [](int) { return int64_t{40}; }, Skew::Balanced, 91);
  Said said(n);
  std::atomic<int> waiting = 0;
  const auto start = std::chrono::steady_clock::now();
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    const RankLayer rank(p, g, options_of(p, g, "masked"));
    g.everyone();
    if (g.rank() == missing) {
      while (waiting < missing && seconds_since(start) < 20) std::this_thread::yield();
      return g.comm.abort("this rank has had enough");
    }
    said.listen(g.rank(), [&] {
      rank.layer->forward(rank.args());
      ++waiting;
      rank.layer->wait(g.stream);
    });
  });
  EXPECT_LT(seconds_since(start), 20) << "the deadline is 30 s";
  for (int r = 0; r < missing; ++r)
    EXPECT_NE(said.messages[static_cast<size_t>(r)].find("this rank has had enough"),
              std::string::npos)
        << said.messages[static_cast<size_t>(r)];
}

TEST_P(PeerCuda, WhatOneRankGetsWrongEveryRankThrowsAndTheLayerGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  const int n = GetParam().num_ranks;
  const auto p = random_problem(
      small_config(), n, [](int r) { return int64_t{20} + r; }, Skew::Balanced, 101);
  const auto expected = run_layer(p, GetParam(), "contiguous");
  Said bad_id(n), bad_bound(n), bad_argument(n);
  std::vector<char> good(static_cast<size_t>(n));
  run_gpu_ranks(GetParam(), [&](GpuRank& g) {
    const RankLayer rank(p, g, options_of(p, g, "contiguous"));
    const int32_t outside = 1000;
    const Tensor first(rank.ids->view().data, DType::I32, {1}, DeviceKind::Cuda);
    int32_t before = 0;
    copy_to_host(*g.backend, &before, first, g.stream);
    const auto forward = [&](Said& said, const ForwardArgs& args) {
      said.listen(g.rank(), [&] { rank.call(args); });
    };
    g.everyone();
    if (g.rank() == 1) copy_to_device(*g.backend, first, &outside, g.stream);
    forward(bad_id, rank.args());
    copy_to_device(*g.backend, first, &before, g.stream);

    ForwardArgs args = rank.args();
    args.max_tokens = p.max_tokens() - (g.rank() == 0);
    forward(bad_bound, args);

    args = rank.args();
    if (g.rank() == 1) args.output.shape = {1, 8};
    forward(bad_argument, args);

    good[static_cast<size_t>(g.rank())] = rank.run() == expected[static_cast<size_t>(g.rank())];
    g.everyone();
  });
  for (size_t r = 0; r < good.size(); ++r) {
    EXPECT_EQ(bad_id.codes[r], Errc::BadRouting) << bad_id.messages[r];
    EXPECT_EQ(bad_bound.codes[r], Errc::ShapeMismatch) << bad_bound.messages[r];
    EXPECT_EQ(bad_argument.codes[r], Errc::ShapeMismatch) << bad_argument.messages[r];
    EXPECT_TRUE(good[r]) << "rank " << r;
  }
}

TEST(PeerCudaConditions, SayWhatSeveralRanksCannotDo) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(1);
  const auto p = random_problem(
      small_config(), 2, [](int) { return int64_t{4}; }, Skew::Balanced, 1);
  const auto message = [&](const std::string& strategy, bool default_stream) {
    std::string said;
    std::mutex mutex;
    try {
      run_gpu_ranks({2, 1}, [&](GpuRank& g) {
        const RankLayer rank(p, g, options_of(p, g, strategy));
        ForwardArgs args = rank.args();
        if (default_stream) args.stream = nullptr;
        rank.layer->forward(args);
        rank.layer->wait(args.stream);
      });
    } catch (const Error& e) {
      said = e.what();
    }
    return said;
  };
  EXPECT_NE(message("masked+cublas", false).find("one rank over cuBLAS"), std::string::npos)
      << message("masked+cublas", false);
  EXPECT_NE(message("masked", true).find("need a stream each"), std::string::npos)
      << message("masked", true);
  EXPECT_EQ(message("masked", false), "");
}

}  // namespace
}  // namespace switchyard::testing
