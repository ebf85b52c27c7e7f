// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/forward_test.cc -- what a forward promises beside its numbers: no allocation, lent
// memory, both id widths, any number of tokens, a report of each call.
#include <gtest/gtest.h>

#include "switchyard/layer.h"
#include "testing/counted_new.h"
#include "testing/layer_features.h"
#include "testing/routing.h"
#include "testing/small_layer.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::Skew;
using Call = testing::SmallCall;

MoeConfig config() {
  return testing::small_layer();
}
LayerOptions options(const std::string& strategy, int64_t max_tokens = 64) {
  return testing::small_options(strategy, max_tokens);
}

TEST(Forward, AllocatesNothing) {
  for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
    auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), options(strategy));
    Call large(64), small(3);
    layer->forward(large.with_gate());
    const int64_t before = testing::g_allocations;
    for (int i = 0; i < 3; ++i) {
      layer->forward(large.with_gate());
      layer->forward(small.with_ids());
      layer->wait();
    }
    EXPECT_EQ(testing::g_allocations - before, 0) << strategy;
  }
}

TEST(Forward, AllocatesNothingForWhatFewModelsHave) {
  for (const auto& feature : testing::layer_features()) {
    const MoeConfig& c = feature.config;
    auto layer = MoeLayer::create(c, random_weights(c, 1, 0, 3), options("auto"));
    const auto hidden = testing::random_bf16({20, c.hidden}, 1);
    const auto ids = testing::token_ids_for(c, 20, 2);
    Buffer<Bf16> output({20, c.hidden});
    const ForwardArgs args{.output = output.view(),
                           .hidden = hidden.view(),
                           .token_ids = c.gate.vocabulary > 0 ? ids.view() : ConstTensor()};
    layer->forward(args);
    const int64_t before = testing::g_allocations;
    layer->forward(args);
    layer->wait();
    EXPECT_EQ(testing::g_allocations - before, 0) << feature.name;
  }
}

TEST(Forward, AllocatesNothingOnAnyRank) {
  for (const char* strategy : {"normal+contiguous", "all_gather+masked", "low_latency+masked"}) {
    std::atomic<int64_t> in_forward = 0, ready = 0, done = 0;
    run_local_ranks(3, [&](Communicator& comm) {
      auto c = config();
      c.num_experts = 15;
      auto o = options(strategy);
      o.sums_at_source = std::string(strategy).starts_with("low_latency");
      auto layer = MoeLayer::create(c, random_weights(c, 3, comm.rank(), 3), comm, o);
      Call call(17 + comm.rank());
      auto args = call.with_gate();
      layer->forward(args);
      layer->wait();
      ++ready;
      while (ready < 3) std::this_thread::yield();
      const int64_t before = testing::g_allocations;
      for (int i = 0; i < 3; ++i) {
        layer->forward(args);
        layer->wait();
      }
      in_forward += testing::g_allocations - before;
      ++done;
      while (done < 3) std::this_thread::yield();  // no destructor before everyone has counted
    });
    EXPECT_EQ(in_forward, 0) << strategy;
  }
}

TEST(Forward, RunsInLentMemoryOfExactlyWorkspaceBytes) {
  for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
    const auto weights = random_weights(config(), 1, 0, 3);
    auto o = options(strategy);
    const size_t bytes = MoeLayer::workspace_bytes(config(), 1, o);
    Buffer<Bf16> memory({static_cast<int64_t>(bytes / 2) + 64});
    const auto address = (reinterpret_cast<uintptr_t>(memory.data()) + 127) / 128 * 128;
    o.workspace = {reinterpret_cast<void*>(address), bytes};
    auto lent = MoeLayer::create(config(), weights, o);
    auto own = MoeLayer::create(config(), weights, options(strategy));
    EXPECT_EQ(lent->workspace_bytes(), bytes);
    Call a(64), b(64);
    lent->forward(a.with_gate());
    own->forward(b.with_gate());
    lent->wait();
    own->wait();
    EXPECT_TRUE(testing::same_bits(a.output, b.output));
    EXPECT_TRUE(memory.guards_intact());
    o.workspace.bytes = bytes - 128;
    EXPECT_THROW(MoeLayer::create(config(), weights, o), Error) << "one line too small";
    o.workspace = {reinterpret_cast<void*>(address + 16), bytes};
    EXPECT_THROW(MoeLayer::create(config(), weights, o), Error) << "misaligned";
  }
}

TEST(Forward, AllocatesNothingWhenTheWorkspaceChanges) {
  auto o = options("contiguous");
  const size_t bytes = MoeLayer::workspace_bytes(config(), 1, o);
  const auto backend = make_cpu_backend(2);
  const std::array<std::shared_ptr<void>, 2> memory{allocate(*backend, bytes),
                                                    allocate(*backend, bytes)};
  o.workspace_per_call = true;
  auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), o);
  Call call(64);
  auto args = call.with_gate();
  args.workspace = {memory[0].get(), bytes};
  layer->forward(args);
  const int64_t before = testing::g_allocations;
  for (const size_t which : {1, 0, 1}) {
    args.workspace = {memory[which].get(), bytes};
    layer->forward(args);
  }
  layer->wait();
  EXPECT_EQ(testing::g_allocations - before, 0);
}

TEST(Forward, NoPlaceForHiddenStatesIsBetterWhereNobodyFetchesThem) {
  const auto weights = random_weights(config(), 1, 0, 3);
  EXPECT_FALSE(MoeLayer::create(config(), weights, options("hybrid"))->input_rows().present());
  run_local_ranks(2, [](Communicator& comm) {
    const auto layer = MoeLayer::create(config(), random_weights(config(), 2, comm.rank(), 3), comm,
                                        options("normal+contiguous"));
    EXPECT_FALSE(layer->input_rows().present());
  });
}

TEST(Forward, MemoryOfViewsOutlivesGrowthAndTheLayer) {
  auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), options("contiguous"));
  const size_t bytes = layer->workspace_bytes();
  const std::shared_ptr<void> before = layer->workspace_memory();
  ASSERT_NE(before, nullptr);
  layer->grow(512);
  EXPECT_NE(layer->workspace_memory(), before);
  layer.reset();
  EXPECT_EQ(before.use_count(), 1);
  std::memset(before.get(), 1, bytes);

  auto o = options("contiguous");
  const std::shared_ptr<void> lent = allocate(*make_cpu_backend(1), bytes);
  o.workspace = {lent.get(), bytes};
  EXPECT_EQ(MoeLayer::create(config(), random_weights(config(), 1, 0, 3), o)->workspace_memory(),
            nullptr);
}

TEST(Forward, TakesIdsOfBothWidths) {
  auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), options("auto"));
  Call narrow(20), wide(20);
  Buffer<int64_t> ids({20, 4});
  for (int64_t i = 0; i < ids.count(); ++i) ids[i] = narrow.ids[i];
  auto args = wide.with_ids();
  args.ids = std::as_const(ids).view();
  layer->forward(narrow.with_ids());
  layer->forward(args);
  layer->wait();
  EXPECT_TRUE(testing::same_bits(narrow.output, wide.output));
  ids[3] = int64_t{1} << 32;  // would be expert 0 if it were cut
  layer->forward(args);
  EXPECT_THROW(layer->wait(), Error);
}

TEST(Forward, TheLayersOwnGateGivesWhatForwardUses) {
  auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), options("auto"));
  Call by_gate(31), by_ids(31);
  Buffer<float> scratch({static_cast<int64_t>(layer->gate().workspace_bytes(31) / 4) + 32});
  const auto address = (reinterpret_cast<uintptr_t>(scratch.data()) + 127) / 128 * 128;
  layer->gate().choose(
      by_ids.ids.view(), by_ids.weights.view(), std::as_const(by_ids.hidden).view(),
      {reinterpret_cast<void*>(address), layer->gate().workspace_bytes(31)}, nullptr);
  layer->forward(by_gate.with_gate());
  layer->forward(by_ids.with_ids());
  layer->wait();
  EXPECT_TRUE(testing::same_bits(by_gate.output, by_ids.output));
}

TEST(Forward, WithoutARouterNeedsIds) {
  auto weights = random_weights(config(), 1, 0, 3);
  weights.router = {};
  auto layer = MoeLayer::create(config(), weights, options("auto"));
  Call call(5);
  EXPECT_NO_THROW(layer->forward(call.with_ids()));
  EXPECT_NO_THROW(layer->wait());
  EXPECT_THROW(layer->forward(call.with_gate()), Error);
  EXPECT_THROW(layer->gate(), Error);
}

// The outputs of 3 ranks, the second without tokens, in a layer for 60 of them.
std::vector<std::vector<uint16_t>> outputs_in_pieces(const std::string& strategy, int pieces,
                                                     int64_t max_tokens) {
  std::vector<std::vector<uint16_t>> bits(3);
  run_local_ranks(3, [&](Communicator& comm) {
    auto c = config();
    c.num_experts = 15;
    LayerOptions o = options(strategy, 60);
    o.token_pieces = pieces;
    auto layer = MoeLayer::create(c, random_weights(c, 3, comm.rank(), 3), comm, o);
    EXPECT_EQ(layer->strategy().token_pieces, pieces);
    Call call(comm.rank() == 1 ? 0 : max_tokens - 3 * comm.rank(), 60);
    ForwardArgs args = call.with_gate();
    args.max_tokens = max_tokens;
    layer->forward(args);
    layer->wait();
    EXPECT_TRUE(call.output.guards_intact());
    for (int64_t i = 0; i < call.output.count(); ++i)
      bits[static_cast<size_t>(comm.rank())].push_back(call.output[i].bits());
  });
  return bits;
}

TEST(Forward, PiecesOfACallChangeNoBit) {
  for (const char* strategy : {"normal+contiguous", "normal+masked", "all_gather+hybrid"})
    for (const int64_t max_tokens : {60, 41, 7}) {
      const auto whole = outputs_in_pieces(strategy, 1, max_tokens);
      for (const int pieces : {2, 3, 7})
        EXPECT_EQ(outputs_in_pieces(strategy, pieces, max_tokens), whole)
            << strategy << ", " << max_tokens << " tokens in " << pieces << " pieces";
    }
}

TEST(Forward, ABadIdInAnyPieceIsThrownByEveryRankAndTheLayerGoesOn) {
  for (const int64_t bad_token : {3, 55}) {
    std::vector<char> good(2, 0);
    run_local_ranks(2, [&](Communicator& comm) {
      auto c = config();
      LayerOptions o = options("normal+contiguous", 60);
      o.token_pieces = 3;
      auto layer = MoeLayer::create(c, random_weights(c, 2, comm.rank(), 3), comm, o);
      Call call(60, 70);
      const auto run = [&] {
        layer->forward(call.with_ids());
        layer->wait();
      };
      run();
      const Buffer<Bf16> expected = call.output;
      const int32_t before = call.ids[bad_token * 4];
      if (comm.rank() == 1) call.ids[bad_token * 4] = 16;
      try {
        run();
      } catch (const Error& e) {
        good[static_cast<size_t>(comm.rank())] = e.code() == Errc::BadRouting;
      }
      call.ids[bad_token * 4] = before;
      run();
      for (int64_t i = 0; i < expected.count(); ++i)
        good[static_cast<size_t>(comm.rank())] &=
            expected[i].bits() == call.output[i].bits() ? 1 : 0;
    });
    EXPECT_EQ(good, std::vector<char>(2, 1)) << bad_token;
  }
}

TEST(Forward, AnyRankMayHaveNoTokens) {
  for (const char* strategy : {"normal+contiguous", "normal+masked", "all_gather+contiguous"})
    for (const int idle : {0b001, 0b110, 0b111}) {
      std::vector<char> good(3, 0);
      run_local_ranks(3, [&](Communicator& comm) {
        auto c = config();
        c.num_experts = 15;
        auto layer =
            MoeLayer::create(c, random_weights(c, 3, comm.rank(), 3), comm, options(strategy));
        const int64_t tokens = idle >> comm.rank() & 1 ? 0 : 9;
        Call call(tokens, 40 + static_cast<uint64_t>(comm.rank()));
        layer->forward(call.with_gate());
        layer->wait();

        // The same tokens alone on one rank: another number of partial rows, so other roundings.
        auto alone = MoeLayer::create(c, random_weights(c, 1, 0, 3), options("contiguous"));
        Call expected(tokens, 40 + static_cast<uint64_t>(comm.rank()));
        alone->forward(expected.with_gate());
        alone->wait();
        bool close = call.output.guards_intact();
        for (int64_t i = 0; i < call.output.count(); ++i) {
          const auto a = static_cast<float>(call.output[i]),
                     e = static_cast<float>(expected.output[i]);
          close &= std::abs(a - e) <= 0x1p-6f * (1 + std::abs(e));
        }
        good[static_cast<size_t>(comm.rank())] = close;
      });
      EXPECT_EQ(good, std::vector<char>(3, 1)) << strategy << " " << idle;
    }
}

TEST(Report, NamesTheLayoutAndWhyAtBothSidesOfTheThreshold) {
  auto o = options("hybrid", 64);
  o.masked_max_tokens = 16;
  auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), o);
  Call call(10);
  auto args = call.with_gate();
  for (const auto& [bound, layout] :
       {std::pair{16, Layout::Masked}, {17, Layout::Contiguous}, {-1, Layout::Contiguous}}) {
    args.max_tokens = bound;
    const auto report = layer->forward(args);
    EXPECT_EQ(report.layout, layout);
    EXPECT_EQ(report.max_rows, bound < 0 ? 64 : bound);
    EXPECT_EQ(report.masked_max_tokens, 16);
  }
  layer->wait();
  EXPECT_EQ(describe(ForwardReport{Layout::Masked, 16, 16}),
            "masked: at most 16 rows, within the threshold of 16");
  EXPECT_EQ(describe(ForwardReport{Layout::Contiguous, 17, 16}),
            "contiguous: at most 17 rows, above the threshold of 16");
  // Ranks count: 5 tokens of each of 4 ranks are up to 20 rows.
  std::vector<Layout> layouts(4, Layout::Masked);
  run_local_ranks(4, [&](Communicator& comm) {
    auto mine = MoeLayer::create(config(), random_weights(config(), 4, comm.rank(), 3), comm, o);
    Call few(5);
    auto a = few.with_gate();
    a.max_tokens = 5;
    layouts[static_cast<size_t>(comm.rank())] = mine->forward(a).layout;
    mine->wait();
  });
  EXPECT_EQ(layouts, std::vector<Layout>(4, Layout::Contiguous));
}

TEST(Weights, TheWrongOrderOfGateAndUpGivesOtherNumbers) {
  auto weights = random_weights(config(), 1, 0, 3);
  auto right = MoeLayer::create(config(), weights, options("auto"));
  weights.experts.order = GateUpOrder::UpGate;
  auto wrong = MoeLayer::create(config(), weights, options("auto"));
  Call a(8), b(8);
  right->forward(a.with_gate());
  wrong->forward(b.with_gate());
  EXPECT_FALSE(testing::same_bits(a.output, b.output));
}

}  // namespace
}  // namespace switchyard
