// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/placement_test.cc -- weight slots on a GPU: which replica, what is counted, tables that
// are swapped between replays of a graph, and ranks whose tables differ.
#include <gtest/gtest.h>

#include <cstdlib>

#include "layer/slot_table.h"
#include "testing/both.h"
#include "testing/gpu_layers.h"
#include "testing/placed_layer.h"

namespace switchyard::testing {
namespace {

// ---- operations

struct BothTables {
  BothTables(const std::vector<int32_t>& slots, int64_t num_experts)
      : active(words({active_word(slot_table(slots, num_experts), 1)})),
        tables(second(slot_table(slots, num_experts))),
        loads(zeros(num_experts)) {}

  template <class At>
  SlotTables view(const At& at, bool by_token = false) {
    return {.num_experts = loads.expected().count(),
            .active = at(active),
            .tables = at(tables),
            .loads = at(loads),
            .by_token = by_token};
  }

  static Both<int32_t> words(std::initializer_list<int32_t> values) {
    return Both<int32_t>::of(values);
  }
  // The first table is poison.
  static Buffer<int32_t> second(const std::vector<int32_t>& table) {
    const auto width = static_cast<int64_t>(table.size());
    Buffer<int32_t> both({2, width});
    std::copy(table.begin(), table.end(), both.data() + width);
    return both;
  }
  static Buffer<int64_t> zeros(int64_t count) {
    Buffer<int64_t> loads({count});
    for (int64_t i = 0; i < count; ++i) loads[i] = 0;
    return loads;
  }

  Both<int32_t> active, tables;
  Both<int64_t> loads;
};

TEST(CudaSlots, ResolvedIdsGoToTheSlotsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto slots = random_slots(64, 96, 3);
  Buffer<int64_t> ids({3000, 6});
  for (int64_t i = 0; i < ids.count(); ++i) ids[i] = i * 7 % 66 - 1;  // 64 is no expert
  for (const bool ignores : {false, true})
    for (const bool by_token : {false, true}) {
      BothTables tables(slots, 64);
      Both<int64_t> given(ids);
      Both<float> weights(random_f32({3000, 6}, 5, 0.0f, 1.0f));
      Both<int32_t> placed({3000, 6});
      auto status = good_status();
      run_on_both([&](auto at) {
        return ResolveIds{at(placed), at(given), {},         64,
                          ignores,    2,         at(status), tables.view(at, by_token),
                          at(weights)};
      });
      EXPECT_TRUE(placed.same());
      EXPECT_TRUE(status.same());
      EXPECT_TRUE(tables.loads.same());
    }
}

TEST(CudaSlots, ZeroExpertsLeaveAndOthersGoToTheSlotsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  BothTables tables(random_slots(60, 96, 3), 60);
  Both<int32_t> ids(random_ids(3000, 64, 6, Skew::SomeMissing, 5)), placed({3000, 6});
  Both<float> weights(random_f32({3000, 6}, 5, 0.0f, 1.0f)), identity({3000});
  run_on_both([&](auto at) {
    return SplitZeroExperts{at(placed), at(identity), at(ids),        at(weights),
                            60,         64,           tables.view(at)};
  });
  EXPECT_TRUE(placed.same());
  EXPECT_TRUE(identity.same());
  EXPECT_TRUE(tables.loads.same());
}

// By its own ids and weights: those of a CPU differ in the last bit.
TEST(CudaSlots, TheGatePlacesAndCountsWhatItChooses) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {64, 256, 700}) {  // in registers, and beyond
    const auto slots = random_slots(experts, experts + 200, 3);
    CudaBuffer<float> logits(random_f32({500, experts}, 6, -3.0f, 3.0f));
    CudaBuffer<float> weights(Shape{500, 8}), same_weights(Shape{500, 8});
    CudaBuffer<int32_t> ids(Shape{500, 8}), placed(Shape{500, 8});
    CudaBuffer<int32_t> active(Shape{1}), tables(BothTables::second(slot_table(slots, experts)));
    const int32_t word = active_word(slot_table(slots, experts), 1);
    copy_to_device(cuda_backend(), active.view(), &word);
    CudaBuffer<int64_t> loads(BothTables::zeros(experts));
    GateTopk gate{
        .ids = ids.view(), .weights = weights.view(), .logits = logits.view(), .gate = {}};
    gate.gate.renormalize = true;
    cuda_ops().run(gate, nullptr);
    gate.ids = placed.view();
    gate.weights = same_weights.view();
    gate.slots = {.num_experts = experts,
                  .active = active.view(),
                  .tables = tables.view(),
                  .loads = loads.view()};
    cuda_ops().run(gate, nullptr);
    EXPECT_TRUE(same_bits(weights.host(), same_weights.host()));
    EXPECT_EQ(placed.host().values(),
              expected_slots(slots, ids.host(), weights.host(), false).values());
    std::vector<int64_t> expected(static_cast<size_t>(experts));
    for (const int32_t id : ids.host().values()) ++expected[static_cast<size_t>(id)];
    EXPECT_EQ(loads.host().values(), expected);
  }
}

// ---- a layer of one rank: it sums in the order of k, wherever experts are

LayerOptions cuda_options(const std::string& strategy, int64_t max_tokens,
                          std::vector<int32_t> placement) {
  LayerOptions o;
  o.max_tokens = max_tokens;
  o.strategy = strategy;
  o.device = DeviceKind::Cuda;
  o.backend = shared_cuda_backend();
  o.placement = std::move(placement);
  o.count_loads = !o.placement.empty();
  return o;
}

void move_weights(Backend& backend, const LayerWeights& to, const LayerWeights& from,
                  CUstream_st* stream) {
  for (const auto part : {&ExpertWeights::w1, &ExpertWeights::w2}) {
    const ConstTensor dst = to.experts.*part;
    copy_to_device(backend, Tensor(const_cast<void*>(dst.data), dst.dtype, dst.shape, dst.device),
                   (from.experts.*part).data, stream);
  }
}

TEST(CudaPlaced, ReplaysUseTheTableOfTheLastSwapAndChangeNoBit) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  constexpr int64_t kTokens = 70, kSlots = 24;
  const MoeConfig config = small_config();
  const LayerWeights all = random_weights(config, 1, 0, 3);
  auto slots = random_slots(config.num_experts, kSlots, 9);
  for (const char* strategy : {"contiguous", "masked"})
    for (const bool gated : {true, false}) {
      const LayerWeights in_order = to_device(all, config, 1, cuda_backend());
      const LayerWeights placed =
          to_device(weights_of_slots(all, slots), config, 1, cuda_backend());
      const auto plain = MoeLayer::create(config, in_order, cuda_options(strategy, kTokens, {}));
      const auto layer = MoeLayer::create(config, placed, cuda_options(strategy, kTokens, slots));
      CudaCall call(config, kTokens);
      CudaBuffer<Bf16> expected(Shape{kTokens, config.hidden});
      const Stream stream;
      const auto args = [&](Tensor to) {
        return gated ? call.args(stream.get(), to) : call.args_given_routing(stream.get(), to);
      };
      layer->forward(args(call.output.view()));
      layer->wait(stream.get());
      Graph graph(stream.get(), [&] { layer->forward(args(call.output.view())); });
      const int num_replays = small() ? 3 : 100;
      for (int i = 0; i < num_replays; ++i) {
        slots = random_slots(config.num_experts, kSlots, 100 + static_cast<uint64_t>(i));
        move_weights(cuda_backend(), placed, weights_of_slots(all, slots), stream.get());
        layer->set_placement(slots, stream.get());
        gated ? call.fill_hidden(static_cast<uint64_t>(i))
              : call.route(Skew::Zipf, static_cast<uint64_t>(i));
        graph.launch(stream.get());
        plain->forward(args(expected.view()));
        layer->wait(stream.get());
        plain->wait(stream.get());
        ASSERT_TRUE(same_bits(call.output.host(), expected.host()))
            << strategy << (gated ? ", gate" : ", given ids") << ", replay " << i;
      }
      Buffer<int64_t> loads({config.num_experts});
      copy_to_host(cuda_backend(), loads.data(), layer->expert_loads(), stream.get());
      int64_t sum = 0;
      for (const int64_t load : loads.values()) sum += load;
      EXPECT_EQ(sum, (1 + num_replays) * kTokens * config.top_k) << "a capture counts nothing";
    }
}

TEST(CudaPlaced, ASwapIsNotCaptured) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const MoeConfig config = small_config();
  const auto slots = random_slots(config.num_experts, 24, 9);
  const LayerWeights placed = to_device(weights_of_slots(random_weights(config, 1, 0, 3), slots),
                                        config, 1, cuda_backend());
  const auto layer = MoeLayer::create(config, placed, cuda_options("contiguous", 8, slots));
  const Stream stream;
  Graph graph(stream.get(), [&] {
    try {
      layer->set_placement(slots, stream.get());
      ADD_FAILURE() << "was captured";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::Unsupported) << e.what();
    }
  });
}

// ---- ranks

class PeerCudaPlaced : public ::testing::TestWithParam<Placement> {};
INSTANTIATE_TEST_SUITE_P(Places, PeerCudaPlaced,
                         ::testing::Values(Placement{2, 1}, Placement{4, 1}, Placement{2, 2},
                                           Placement{4, 4}),
                         [](const auto& info) { return name_of(info.param); });

struct PlacedStrategy {
  const char* name;
  bool shares_tokens = false;  // tp = P
};
constexpr PlacedStrategy kPlacedStrategies[] = {
    {"normal+contiguous"}, {"normal+masked"}, {"all_gather+hybrid"}, {"local+contiguous", true}};

LayerProblem placed_problem(int num_ranks, bool shares_tokens) {
  auto p = random_problem(
      small_config(), num_ranks,
      [&](int r) { return shares_tokens ? int64_t{60} : int64_t{50} + 9 * r; }, Skew::Zipf, 71);
  if (!shares_tokens) return p;
  p.tp_size = num_ranks;
  for (size_t r = 1; r < p.hidden.size(); ++r) {
    p.hidden[r] = p.hidden[0];
    p.ids[r] = p.ids[0];
    p.router_weights[r] = p.router_weights[0];
  }
  return p;
}

// A layer that has the slots for experts, and is given the slots for ids, computes the same: after
// each swap between replays of one graph.
TEST_P(PeerCudaPlaced, ReplaysGiveTheBitsOfALayerOfTheSlotsAfterEachSwap) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  constexpr int64_t kSlots = 24;
  for (const PlacedStrategy& s : kPlacedStrategies) {
    const int n = GetParam().num_ranks;
    const LayerProblem p = placed_problem(n, s.shares_tokens);
    MoeConfig of_slots = p.config;
    of_slots.num_experts = kSlots;
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      const auto r = static_cast<size_t>(g.rank());
      const LayerWeights all = random_weights(p.config, 1, 0, 3);
      auto slots = random_slots(p.config.num_experts, kSlots, 9);
      LayerProblem placed = p, reference = p;
      placed.weights = [&](int ranks, int rank) {
        return weights_of_slots(all, slots_of_rank(slots, ranks, rank));
      };
      reference.config = of_slots;
      reference.weights = [&](int ranks, int rank) {
        LayerWeights w = weights_of_slots(all, slots_of_rank(slots, ranks, rank));
        w.router = {};
        w.experts.num_slots = 0;
        return w;
      };
      auto options = options_of(p, g, s.name);
      const RankLayer of_ids(reference, g, options);
      options.placement = slots;
      const RankLayer layer(placed, g, options);
      g.everyone();
      layer.run();
      of_ids.run();
      g.everyone();
      {
        Graph graph(g.stream, [&] { layer.layer->forward(layer.args()); });
        g.everyone();
        for (int i = 0; i < (small() ? 2 : 30); ++i) {
          slots = random_slots(p.config.num_experts, kSlots, 100 + static_cast<uint64_t>(i));
          const LayerWeights next = weights_of_slots(all, slots_of_rank(slots, n, g.rank()));
          move_weights(*g.backend, layer.weights, next, g.stream);
          move_weights(*g.backend, of_ids.weights, next, g.stream);
          layer.layer->set_placement(slots, g.stream);
          const auto ids = expected_slots(slots, p.ids[r], p.router_weights[r], s.shares_tokens);
          copy_to_device(*g.backend, of_ids.ids->view(), ids.data(), g.stream);
          layer.poison();
          graph.launch(g.stream);
          layer.layer->wait(g.stream);
          EXPECT_EQ(layer.bits(), of_ids.run()) << s.name << ", replay " << i << ", rank " << r;
        }
        g.everyone();
      }
      g.everyone();
    });
  }
}

// One rank that swaps alone is an error on all, in a replay, too; once all have, the layer goes on.
TEST_P(PeerCudaPlaced, TablesThatDifferAreAnErrorOnEveryRankAndTheLayerGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_GPUS(GetParam().num_devices);
  for (const PlacedStrategy& s : kPlacedStrategies) {
    const int n = GetParam().num_ranks;
    std::vector<std::string> messages(static_cast<size_t>(n));
    std::vector<char> same(static_cast<size_t>(n));
    const auto slots = random_slots(16, 24, 9), other = random_slots(16, 24, 10);
    LayerProblem p = placed_problem(n, s.shares_tokens);
    p.weights = [&](int ranks, int rank) {
      return placed_weights(p.config, slots, ranks, rank, 3);
    };
    run_gpu_ranks(GetParam(), [&](GpuRank& g) {
      const auto r = static_cast<size_t>(g.rank());
      auto options = options_of(p, g, s.name);
      options.placement = slots;
      const RankLayer layer(p, g, options);
      g.everyone();
      const auto before = layer.run();
      g.everyone();
      {
        Graph graph(g.stream, [&] { layer.layer->forward(layer.args()); });
        g.everyone();
        if (g.rank() == 1) layer.layer->set_placement(other, g.stream);
        graph.launch(g.stream);
        try {
          layer.layer->wait(g.stream);
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), Errc::ShapeMismatch);
          messages[r] = e.what();
        }
        if (g.rank() == 1) layer.layer->set_placement(slots, g.stream);
        layer.poison();
        graph.launch(g.stream);
        layer.layer->wait(g.stream);
        same[r] = layer.bits() == before;
        g.everyone();
      }
      g.everyone();
    });
    for (size_t r = 0; r < messages.size(); ++r) {
      EXPECT_TRUE(messages[r].starts_with("forward: placement=")) << s.name << ": " << messages[r];
      EXPECT_NE(messages[r].find(" on rank 1, "), std::string::npos) << messages[r];
      EXPECT_TRUE(same[r]) << s.name << ": rank " << r;
    }
  }
}

}  // namespace
}  // namespace switchyard::testing
