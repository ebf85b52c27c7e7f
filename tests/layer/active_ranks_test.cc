// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/active_ranks_test.cc -- layers whose calls go on without ranks that are lost: what a loss
// costs, and what calls give afterwards, against layers that know nothing of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <latch>
#include <numeric>

#include "layer/rank_outputs.h"
#include "testing/forked_ranks.h"
#include "testing/placed_layer.h"
#include "testing/routing.h"
#include "testing/shared_memory.h"

namespace switchyard::testing {
namespace {

using Bits = std::vector<uint16_t>;
using Ranks = std::vector<int32_t>;

constexpr int kRanks = 3;
constexpr std::chrono::milliseconds kTimeout{1500};

MoeConfig small() {
  MoeConfig c;
  c.hidden = 64;
  c.intermediate = 32;
  c.num_experts = 12;
  c.top_k = 4;
  return c;
}

LayerOptions options_of(bool sums_at_source) {
  LayerOptions options;
  // [active_ranks]
  options.strategy = "low_latency+masked";
  options.lost_rank_timeout = kTimeout;
  // [active_ranks]
  options.max_tokens = 32;
  options.num_threads = 1;
  options.sums_at_source = sums_at_source;
  options.poison_workspace = true;
  return options;
}

void go_on(MoeLayer& layer, Ranks& active, CUstream_st* stream = nullptr) {
  // [go_on]
  const std::vector<int32_t> missing = layer.missing_ranks(stream);
  std::erase_if(active, [&](int32_t rank) { return std::ranges::count(missing, rank) > 0; });
  layer.set_active_ranks(active, stream);
  // [go_on]
}

// What a rank gives to call number `call`, and gets.
class Step {
 public:
  Step(int rank, uint64_t call, uint64_t seed = 1000)
      : hidden_(random_bf16({num_tokens(rank, call), small().hidden}, seed + 100 * call + rank)),
        ids_(random_ids(hidden_.view().dim(0), 12, 4, Skew::SomeMissing, 7 * call + rank)),
        weights_(random_f32({hidden_.view().dim(0), 4}, 9 * call + rank, 0.1f, 1.0f)),
        output_(hidden_.view().shape) {}

  ForwardArgs args() {
    std::fill_n(output_.data(), output_.count(), Bf16::from_bits(0x1234));
    return {.output = output_.view(),
            .hidden = hidden_.view(),
            .ids = ids_.view(),
            .weights = weights_.view()};
  }
  Bits run(MoeLayer& layer) {
    layer.forward(args());
    layer.wait();
    return bits();
  }
  Bits bits() const {
    const auto* words = static_cast<const uint16_t*>(output_.view().data);
    return {words, words + output_.count()};
  }
  // Experts of these ranks are chosen no more. How many choices that takes.
  int64_t drop(const Ranks& ranks) {
    int64_t num_dropped = 0;
    for (int64_t i = 0; i < ids_.count(); ++i) {
      if (ids_[i] < 0 || !std::ranges::count(ranks, ids_[i] / 4)) continue;
      ids_[i] = -1;
      ++num_dropped;
    }
    return num_dropped;
  }

 private:
  static int64_t num_tokens(int rank, uint64_t call) {
    return rank == 1 && call % 5 == 0 ? 0 : static_cast<int64_t>(3 + (7 * call + 5 * rank) % 20);
  }

  Buffer<Bf16> hidden_;
  Buffer<int32_t> ids_;
  Buffer<float> weights_;
  Buffer<Bf16> output_;
};

// With the weights of all experts, on one rank: the bits of sums at the source.
std::unique_ptr<MoeLayer> one_rank_layer() {
  LayerOptions o;
  o.max_tokens = 32;
  o.strategy = "contiguous";
  o.num_threads = 1;
  return MoeLayer::create(small(), random_weights(small(), 1, 0, 9), o);
}

// What calls [first, end) give each rank where experts of lost ranks are chosen no more.
std::vector<std::vector<Bits>> without(const Ranks& lost, uint64_t first, uint64_t end) {
  std::vector<std::vector<Bits>> all(kRanks);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    auto options = options_of(false);
    options.lost_rank_timeout = {};
    options.strategy = "normal+contiguous";
    const auto layer =
        MoeLayer::create(small(), random_weights(small(), kRanks, comm.rank(), 9), comm, options);
    for (uint64_t call = first; call < end; ++call) {
      Step step(comm.rank(), call);
      step.drop(lost);
      all[static_cast<size_t>(comm.rank())].push_back(step.run(*layer));
    }
  });
  return all;
}

std::unique_ptr<MoeLayer> make_layer(Communicator& comm, const LayerOptions& options) {
  return MoeLayer::create(small(), random_weights(small(), kRanks, comm.rank(), 9), comm, options);
}

bool is_nan(const Bits& bits) {
  return std::ranges::all_of(bits, [](uint16_t b) { return (b & 0x7fff) > 0x7f80; });
}

std::optional<Error> caught(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e;
  }
  return std::nullopt;
}
std::optional<Errc> code_of(const std::function<void()>& act) {
  const auto error = caught(act);
  return error ? std::optional(error->code()) : std::nullopt;
}
std::optional<Error> error_of_call(MoeLayer& layer, Step& step) {
  return caught([&] { step.run(layer); });
}

// That the call ended because the rank did not come.
void expect_missing(const std::optional<Error>& error, const Step& step, int rank,
                    const std::string& what = "dispatch: rows of rank ") {
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), Errc::Transport);
  EXPECT_NE(std::string(error->what())
                .find(what + std::to_string(rank) + " did not come within lost_rank_timeout"),
            std::string::npos)
      << error->what();
  EXPECT_TRUE(is_nan(step.bits()));
}

// Calls of rank `rank`, with sums at their source, whose experts of rank `lost` are not there.
void expect_calls_without(int32_t lost, MoeLayer& layer, int rank, uint64_t first, uint64_t end) {
  const auto reference = one_rank_layer();
  for (uint64_t call = first; call < end; ++call) {
    Step step(rank, call);
    const Bits bits = step.run(layer);
    step.drop({lost});
    ASSERT_EQ(bits, step.run(*reference)) << "call " << call;
  }
}

TEST(ActiveRanks, ALossCostsOneCallAndOthersGoOnWithWhatIsThere) {
  for (const bool at_source : {false, true}) {
    constexpr uint64_t kCalls = 40;
    const auto owners_sums = without({2}, 10, 10 + kCalls);
    std::latch done(2);
    run_local_ranks(kRanks, [&](Communicator& comm) {
      const int rank = comm.rank();
      const auto layer = make_layer(comm, options_of(at_source));
      const auto reference = one_rank_layer();
      for (uint64_t call = 0; call < 5; ++call) {
        Step step(rank, call);
        const Bits bits = step.run(*layer);
        if (at_source) {
          EXPECT_EQ(bits, step.run(*reference)) << "call " << call;
        }
      }
      if (rank == 2) return done.wait();
      EXPECT_TRUE(layer->missing_ranks().empty());
      for (int again = 0; again < 2; ++again) {  // until it is left out
        Step step(rank, 7);
        expect_missing(error_of_call(*layer, step), step, 2);
        EXPECT_EQ(layer->missing_ranks(), Ranks{2});
      }
      layer->set_active_ranks(Ranks{1, 0});
      EXPECT_TRUE(layer->missing_ranks().empty());
      int64_t num_dropped = 0;
      for (uint64_t call = 10; call < 10 + kCalls; ++call) {
        Step step(rank, call);
        const Bits bits = step.run(*layer);
        num_dropped += step.drop({2});
        const Bits expected =
            at_source ? step.run(*reference) : owners_sums[static_cast<size_t>(rank)][call - 10];
        ASSERT_EQ(bits, expected) << "call " << call << ", rank " << rank << at_source;
      }
      EXPECT_GT(num_dropped, 0);
      EXPECT_EQ(layer->dropped_routes().as<int64_t>()[0], num_dropped);
      done.count_down();
      done.wait();
    });
  }
}

TEST(ActiveRanks, RowsInFp8GoOnWithoutARank) {
  const auto in_fp8 = [](const LayerWeights& weights) {
    return f8_weights(weights, {32, ScaleBlock::kWhole}, {64, ScaleBlock::kWhole});
  };
  std::latch done(2);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto layer = MoeLayer::create(
        small(), in_fp8(random_weights(small(), kRanks, comm.rank(), 9)), comm, options_of(true));
    EXPECT_EQ(layer->strategy().rows, DType::F8E4m3);
    LayerOptions of_one;
    of_one.max_tokens = 32;
    of_one.strategy = "contiguous";
    of_one.num_threads = 1;
    const auto reference =
        MoeLayer::create(small(), in_fp8(random_weights(small(), 1, 0, 9)), of_one);
    for (uint64_t call = 0; call < 60; ++call) {
      if (call == 20 && comm.rank() == 1) return done.wait();
      Step step(comm.rank(), call);
      if (call == 20) {
        expect_missing(error_of_call(*layer, step), step, 1);
        layer->set_active_ranks(Ranks{0, 2});
      }
      const Bits bits = step.run(*layer);
      if (call >= 20) step.drop({1});
      ASSERT_EQ(bits, step.run(*reference)) << "call " << call << ", rank " << comm.rank();
    }
    done.count_down();
    done.wait();
  });
}

TEST(ActiveRanks, ThousandsOfCallsGoOnAndOneRankMayRemain) {
  constexpr uint64_t kCalls = 3000;
  std::latch done(1);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto layer = make_layer(comm, options_of(true));
    const auto reference = one_rank_layer();
    Ranks active{0, 1, 2}, lost;
    for (uint64_t call = 0; call < kCalls; ++call) {
      if (call == kCalls / 3 * static_cast<uint64_t>(3 - comm.rank())) return done.wait();
      Step step(comm.rank(), call);
      if (call == kCalls / 3 || call == kCalls / 3 * 2) {
        expect_missing(error_of_call(*layer, step), step, active.back());
        lost.push_back(active.back());
        go_on(*layer, active);
      }
      const Bits bits = step.run(*layer);
      step.drop(lost);
      ASSERT_EQ(bits, step.run(*reference)) << "call " << call << ", rank " << comm.rank();
    }
    done.count_down();
  });
}

TEST(ActiveRanks, AReplicaOnARankThatIsThereTakesTheChoicesOfOneThatIsNot) {
  // Experts of rank p, and those of the next one.
  Ranks placement;
  for (int32_t p = 0; p < kRanks; ++p)
    for (int32_t i = 0; i < 8; ++i) placement.push_back((4 * p + i) % 12);
  std::latch done(2);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    auto options = options_of(true);
    options.placement = placement;
    options.allow_repeated_experts = true;
    const auto layer = MoeLayer::create(
        small(), placed_weights(small(), placement, kRanks, comm.rank(), 9), comm, options);
    const auto reference = one_rank_layer();
    for (uint64_t call = 0; call < 60; ++call) {
      if (call == 20 && comm.rank() == 1) return done.wait();
      Step step(comm.rank(), call);
      if (call == 20) {
        expect_missing(error_of_call(*layer, step), step, 1);
        layer->set_active_ranks(Ranks{0, 2});
      }
      ASSERT_EQ(step.run(*layer), step.run(*reference)) << "call " << call;
      if (call == 40) layer->set_placement(placement);  // which knows nothing of ranks
    }
    EXPECT_EQ(layer->dropped_routes().as<int64_t>()[0], 0);
    done.count_down();
    done.wait();
  });
}

TEST(ActiveRanks, AKilledProcessIsMissingAndTheOthersGoOn) {
  const auto owners_sums = without({1}, 10, 30);
  const SharedGather gather;
  SharedArray<SharedCounts> counts(1);
  new (&counts[0]) SharedCounts;
  SharedArray<Seen> seen(kRanks);
  SharedArray<char> same(kRanks);
  ForkedRanks children(kRanks, [&](int rank) {
    const auto comm = make_process_rank(rank, kRanks, gather.of(rank, kRanks));
    auto options = options_of(false);
    options.backend = std::make_shared<SharedCpuBackend>(counts[0]);
    const auto layer = make_layer(*comm, options);
    for (uint64_t call = 0; call < 3; ++call) Step(rank, call).run(*layer);
    if (rank == 1) raise(SIGKILL);
    Step lost(rank, 5);
    if (const auto error = error_of_call(*layer, lost)) seen[static_cast<size_t>(rank)].say(*error);
    if (layer->missing_ranks() != Ranks{1}) return;
    layer->set_active_ranks(Ranks{0, 2});
    bool all = true;
    for (uint64_t call = 10; call < 30; ++call)
      all &= Step(rank, call).run(*layer) == owners_sums[static_cast<size_t>(rank)][call - 10];
    same[static_cast<size_t>(rank)] = all;
  });
  EXPECT_FALSE(children.finished(1)) << "it was killed";
  for (const int r : {0, 2}) {
    const auto& said = seen[static_cast<size_t>(r)];
    EXPECT_TRUE(children.finished(r)) << "rank " << r;
    EXPECT_TRUE(said.says("rows of rank 1 did not come within lost_rank_timeout")) << said.message;
    EXPECT_TRUE(same[static_cast<size_t>(r)]) << "rank " << r;
  }
}

TEST(ActiveRanks, ARankThatComesTooLateIsToldAndDisturbsNoOther) {
  std::latch left_out(2), done(3);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto layer = make_layer(comm, options_of(true));
    Step(comm.rank(), 0).run(*layer);
    if (comm.rank() == 2) {
      left_out.wait();
      for (int again = 0; again < 3; ++again) {
        Step step(2, 1);
        const auto error = error_of_call(*layer, step);
        ASSERT_TRUE(error.has_value());
        EXPECT_EQ(error->code(), Errc::Transport);
        EXPECT_NE(std::string(error->what()).find("rank 2 came too late, its peers go on"),
                  std::string::npos)
            << error->what();
        EXPECT_TRUE(is_nan(step.bits()));
      }
      done.count_down();
      return done.wait();
    }
    Step lost(comm.rank(), 1);
    expect_missing(error_of_call(*layer, lost), lost, 2);
    layer->set_active_ranks(Ranks{0, 1});
    left_out.count_down();
    expect_calls_without(2, *layer, comm.rank(), 2, 200);
    done.count_down();
    done.wait();
  });
}

TEST(ActiveRanks, ARankThatEndsMayBeLeftOutBeforeItIsMissed) {
  std::latch done(2);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto layer = make_layer(comm, options_of(true));
    Step(comm.rank(), 0).run(*layer);
    if (comm.rank() == 0) return done.wait();
    layer->set_active_ranks(Ranks{1, 2});
    expect_calls_without(0, *layer, comm.rank(), 1, 20);
    done.count_down();
    done.wait();
  });
}

TEST(ActiveRanks, RanksThatDisagreeGetAnErrorUntilTheyAgree) {
  std::latch done(2);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto layer = make_layer(comm, options_of(false));
    Step(comm.rank(), 0).run(*layer);
    if (comm.rank() == 2) return done.wait();
    if (comm.rank() == 0) layer->set_active_ranks(Ranks{0, 1});
    Step step(comm.rank(), 1);
    const auto error = error_of_call(*layer, step);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code(), Errc::ShapeMismatch);
    EXPECT_NE(std::string(error->what()).find("active_ranks=7 (a bit each) on rank 1"),
              std::string::npos)
        << error->what();
    Step again(comm.rank(), 2);
    expect_missing(error_of_call(*layer, again), again, 2);  // which rank 1 still has
    if (comm.rank() == 1) layer->set_active_ranks(Ranks{0, 1});
    Step good(comm.rank(), 3);
    EXPECT_FALSE(error_of_call(*layer, good).has_value());
    EXPECT_FALSE(is_nan(good.bits()));
    done.count_down();
    done.wait();
  });
}

TEST(ActiveRanks, WhatARankGetsWrongIsStillAnErrorOfOneCall) {
  std::latch done(2);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto layer = make_layer(comm, options_of(false));
    if (comm.rank() == 2) return done.wait();
    layer->set_active_ranks(Ranks{0, 1});
    Step step(comm.rank(), 1);
    ForwardArgs args = step.args();
    if (comm.rank() == 1) args.output.shape = {1, 8};
    EXPECT_EQ(code_of([&] {
                layer->forward(args);
                layer->wait();
              }),
              Errc::ShapeMismatch);
    EXPECT_FALSE(error_of_call(*layer, step).has_value());
    done.count_down();
    done.wait();
  });
}

TEST(ActiveRanks, ArgumentsThatCannotBeAreRefusedAndChangeNothing) {
  std::latch done(kRanks);
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto layer = make_layer(comm, options_of(false));
    const int32_t other = (comm.rank() + 1) % kRanks;
    for (const Ranks& bad : {Ranks{}, Ranks{other}, Ranks{comm.rank(), kRanks},
                             Ranks{comm.rank(), -1}, Ranks{comm.rank(), 64}})
      EXPECT_EQ(code_of([&] { layer->set_active_ranks(bad); }), Errc::ShapeMismatch);
    Step(comm.rank(), 0).run(*layer);
    done.arrive_and_wait();
    layer->set_active_ranks(Ranks{comm.rank()});
    EXPECT_EQ(code_of([&] {
                layer->set_active_ranks(Ranks{comm.rank(), other});
              }),
              Errc::ShapeMismatch)
        << "one that was left out does not come back";
    EXPECT_EQ(code_of([&] { layer->grow(64); }), Errc::Unsupported);
    Step alone(comm.rank(), 1);
    EXPECT_FALSE(error_of_call(*layer, alone).has_value());
  });
  const auto one = one_rank_layer();
  EXPECT_EQ(code_of([&] { one->set_active_ranks(Ranks{0}); }), Errc::Unsupported);
  EXPECT_TRUE(one->missing_ranks().empty());
  EXPECT_FALSE(one->dropped_routes().present());
}

TEST(ActiveRanks, LayersThatCannotOutliveRanksAreRefused) {
  const auto code_with = [](const std::function<void(LayerOptions&)>& change) {
    Errc code{};
    run_local_ranks(2, [&](Communicator& comm) {
      auto options = options_of(false);
      change(options);
      const auto mine = code_of([&] {
        MoeLayer::create(small(), random_weights(small(), 2, comm.rank(), 9), comm, options);
      });
      if (comm.rank() == 0) code = mine.value_or(Errc{});
    });
    return code;
  };
  EXPECT_EQ(code_with([](LayerOptions&) {}), Errc{});
  EXPECT_EQ(code_with([](LayerOptions& o) { o.strategy = "auto"; }), Errc{});
  EXPECT_EQ(code_with([](LayerOptions& o) { o.strategy = "normal+masked"; }), Errc::Unsupported);
  EXPECT_EQ(code_with([](LayerOptions& o) { o.tp_size = 2; }), Errc::Unsupported);
  EXPECT_EQ(code_with([](LayerOptions& o) { o.token_pieces = 2; }), Errc::Unsupported);
  EXPECT_EQ(code_with([](LayerOptions& o) { o.peer_memory = false; }), Errc::Unsupported);
  EXPECT_EQ(code_with([](LayerOptions& o) { o.host_ordered = true; }), Errc::Unsupported);
  EXPECT_EQ(code_with([](LayerOptions& o) { o.lost_rank_timeout = std::chrono::milliseconds(-1); }),
            Errc::ShapeMismatch);
  EXPECT_EQ(code_with([](LayerOptions& o) { o.lost_rank_timeout = std::chrono::hours(24 * 366); }),
            Errc::ShapeMismatch);
}

}  // namespace
}  // namespace switchyard::testing
