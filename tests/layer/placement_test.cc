// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/placement_test.cc -- layers whose experts are in weight slots: any number of replicas,
// on any rank, swapped between calls.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "testing/error_of.h"
#include "testing/f8_weights.h"
#include "testing/placed_layer.h"
#include "testing/routing.h"

namespace switchyard::testing {
namespace {

constexpr int64_t kExperts = 12, kSlots = 20;

MoeConfig placed_config() {
  MoeConfig c;
  c.hidden = 128;
  c.intermediate = 64;
  c.num_experts = kExperts;
  c.top_k = 4;
  c.gate.renormalize = true;
  c.gate.num_groups = 4;  // which slots know nothing of
  c.gate.num_groups_kept = 2;
  c.shared = {.intermediate = 32, .sigmoid_gated = true};
  return c;
}

struct Case {
  int num_ranks;
  const char* strategy;
  int tp_size = 1;

  // Whether every rank holds all tokens.
  bool shares_tokens() const { return num_ranks > 1 && tp_size == num_ranks; }
  int group(int rank) const { return rank / tp_size; }
};
std::ostream& operator<<(std::ostream& os, const Case& c) {
  return os << c.num_ranks << " ranks, " << c.strategy << ", tp " << c.tp_size;
}
const std::vector<Case> kCases = {
    {1, "local+contiguous"},          {1, "local+masked"},
    {2, "normal+contiguous"},         {2, "normal+masked"},
    {2, "all_gather+hybrid"},         {2, "local+contiguous", 2},
    {4, "normal+contiguous"},         {4, "normal+masked", 2},
    {4, "all_gather+masked"},         {4, "all_gather+contiguous", 2},
    {4, "local+masked", 4},           {2, "low_latency+masked"},
    {4, "low_latency+contiguous", 2},
};

LayerOptions options_of(const Case& c, std::vector<int32_t> placement) {
  LayerOptions o;
  o.max_tokens = 64;
  o.strategy = c.strategy;
  o.tp_size = c.tp_size;
  o.num_threads = 1;
  o.allow_repeated_experts = true;
  o.placement = std::move(placement);
  return o;
}

// Tensors of a rank's call; groups of ranks have the same.
struct Call {
  Call(const MoeConfig& c, int64_t num_tokens, uint64_t seed)
      : hidden(random_bf16({num_tokens, c.hidden}, seed)),
        ids(random_ids(num_tokens, c.num_experts, c.top_k, Skew::SomeMissing, seed + 1)),
        weights(random_f32({num_tokens, c.top_k}, seed + 2, 0.1f, 1.0f)),
        output({num_tokens, c.hidden}) {}

  ForwardArgs with_gate() { return {.output = output.view(), .hidden = hidden.view()}; }
  ForwardArgs with_ids(const Buffer<int32_t>& chosen) {
    return {.output = output.view(),
            .hidden = hidden.view(),
            .ids = chosen.view(),
            .weights = weights.view()};
  }
  // What the layer's gate chooses: experts.
  void choose(MoeLayer& layer) {
    const size_t bytes = layer.gate().workspace_bytes(hidden.view().dim(0));
    const auto workspace = allocate(*make_cpu_backend(1), bytes);
    layer.gate().choose(ids.view(), weights.view(), hidden.view(), {workspace.get(), bytes},
                        nullptr);
  }
  std::vector<uint16_t> run(MoeLayer& layer, const ForwardArgs& args) {
    output = Buffer<Bf16>(output.view().shape);
    ForwardArgs poisoned = args;
    poisoned.output = output.view();
    layer.forward(poisoned);
    layer.wait();
    EXPECT_TRUE(output.guards_intact());
    std::vector<uint16_t> bits;
    for (int64_t i = 0; i < output.count(); ++i) bits.push_back(output[i].bits());
    return bits;
  }

  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;
  Buffer<float> weights;
  Buffer<Bf16> output;
};

class Placed : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, Placed, ::testing::ValuesIn(kCases));

// A layer that has the slots for experts, and is given the slots for ids, computes the same.
TEST_P(Placed, GivesTheBitsOfALayerOfItsSlots) {
  const Case& c = GetParam();
  MoeConfig of_slots = placed_config();
  of_slots.num_experts = kSlots;
  of_slots.gate = {};
  const auto slots = random_slots(kExperts, kSlots, 3), other = random_slots(kExperts, kSlots, 4);
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    const auto weights = placed_weights(placed_config(), slots, comm.size(), comm.rank(), 5);
    auto options = options_of(c, slots);
    const auto layer = MoeLayer::create(placed_config(), weights, comm, options);
    LayerWeights without_router = weights;
    without_router.router = {};
    without_router.experts.num_slots = 0;
    options.placement = {};
    const auto reference = MoeLayer::create(of_slots, without_router, comm, options);
    Call call(placed_config(), 9 + 15 * c.group(comm.rank()), 7 + c.group(comm.rank()));
    const auto expect_equal = [&](const ForwardArgs& args, std::span<const int32_t> table,
                                  const char* what) {
      const auto placed = expected_slots(table, call.ids, call.weights, c.shares_tokens());
      const auto bits = call.run(*layer, args);
      EXPECT_EQ(bits, call.run(*reference, call.with_ids(placed))) << what;
    };
    expect_equal(call.with_ids(call.ids), slots, "given ids");
    layer->set_placement(other);
    expect_equal(call.with_ids(call.ids), other, "given ids, swapped");
    const Buffer<int32_t> given = call.ids;
    call.choose(*layer);
    expect_equal(call.with_gate(), other, "the gate");
    layer->set_placement(slots);
    layer->grow(100);
    expect_equal(call.with_gate(), slots, "grown");
  });
}

// Numbers whose every sum is exact, so no association can show: W1 has one 1 or -1 in a row, W2 a few.
LayerWeights exact_weights(const MoeConfig& c, uint64_t seed) {
  struct Tensors {
    Buffer<Bf16> w1, w2;
  };
  auto t =
      std::make_shared<Tensors>(Tensors{Buffer<Bf16>({c.num_experts, c.w1_rows(), c.hidden}),
                                        Buffer<Bf16>({c.num_experts, c.hidden, c.intermediate})});
  std::mt19937_64 rng(seed);
  const auto fill = [&](Buffer<Bf16>& w, int64_t width, int per_row) {
    for (int64_t i = 0; i < w.count(); ++i) w[i] = Bf16(0.0f);
    for (int64_t row = 0; row < w.count() / width; ++row)
      for (int n = 0; n < per_row; ++n)
        w[row * width + static_cast<int64_t>(rng() % static_cast<uint64_t>(width))] =
            Bf16(rng() % 2 == 0 ? 1.0f : -1.0f);
  };
  fill(t->w1, c.hidden, 1);
  fill(t->w2, c.intermediate, 3);
  LayerWeights weights;
  weights.experts.order = GateUpOrder::GateUp;
  weights.experts.w1 = t->w1.view();
  weights.experts.w2 = t->w2.view();
  weights.owner = t;
  return weights;
}

// Swaps that move weights, as an engine's do, change no bit where sums are exact.
TEST_P(Placed, WeightsMoveAndTablesSwapWithoutChangingABitOfExactSums) {
  const Case& c = GetParam();
  MoeConfig config = placed_config();
  config.activation.kind = ActivationKind::Relu2;
  config.gate = {};
  config.shared = {};
  const LayerWeights all = exact_weights(config, 11);
  std::vector<std::vector<uint16_t>> expected(4);
  const auto call_of = [&](int group) {
    Call call(config, 11 + 9 * group, 20 + static_cast<uint64_t>(group));
    for (int64_t i = 0; i < call.hidden.count(); ++i)
      call.hidden[i] = Bf16(static_cast<float>(i * i % 3) - 1.0f);
    for (int64_t i = 0; i < call.weights.count(); ++i)
      call.weights[i] = i % 3 == 0 ? 0.5f : 0.25f + static_cast<float>(i % 2);
    return call;
  };
  for (int group = 0; group < c.num_ranks / c.tp_size; ++group) {
    Call call = call_of(group);
    const auto layer = MoeLayer::create(config, all, options_of({1, "local+contiguous"}, {}));
    expected[static_cast<size_t>(group)] = call.run(*layer, call.with_ids(call.ids));
  }
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    Call call = call_of(c.group(comm.rank()));
    auto slots = random_slots(kExperts, kSlots, 50);
    const LayerWeights mine = weights_of_slots(all, slots_of_rank(slots, comm.size(), comm.rank()));
    const auto layer = MoeLayer::create(config, mine, comm, options_of(c, slots));
    for (uint64_t swap = 0; swap < 20; ++swap) {
      EXPECT_EQ(call.run(*layer, call.with_ids(call.ids)),
                expected[static_cast<size_t>(c.group(comm.rank()))])
          << "after swap " << swap;
      slots = random_slots(kExperts, kSlots, 51 + swap);
      const auto next = weights_of_slots(all, slots_of_rank(slots, comm.size(), comm.rank()));
      const auto move = [](ConstTensor to, ConstTensor from) {
        std::memcpy(const_cast<void*>(to.data), from.data, static_cast<size_t>(to.bytes()));
      };
      move(mine.experts.w1, next.experts.w1);
      move(mine.experts.w2, next.experts.w2);
      layer->set_placement(slots);
    }
  });
}

std::vector<int64_t> loads_of(const MoeLayer& layer) {
  const Tensor loads = layer.expert_loads();
  return {loads.as<int64_t>(), loads.as<int64_t>() + loads.count()};
}

// Over all ranks, of those that do not share their tokens.
TEST_P(Placed, LoadsAreCountedExactlyAndGoOnInALargerLayer) {
  const Case& c = GetParam();
  for (const bool placed : {false, true}) {
    std::vector<int64_t> counted(kExperts), expected(kExperts);
    std::mutex mutex;
    run_local_ranks(c.num_ranks, [&](Communicator& comm) {
      const auto slots = random_slots(kExperts, kSlots, 3);
      auto options = options_of(c, placed ? slots : std::vector<int32_t>());
      options.count_loads = true;
      const auto weights = placed
                               ? placed_weights(placed_config(), slots, comm.size(), comm.rank(), 5)
                               : random_weights(placed_config(), comm.size(), comm.rank(), 5);
      const auto layer = MoeLayer::create(placed_config(), weights, comm, options);
      Call call(placed_config(), 30 - c.group(comm.rank()), 7 + c.group(comm.rank()));
      std::vector<int64_t> mine(kExperts);
      const auto add = [&] {
        for (int64_t i = 0; i < call.ids.count(); ++i)
          if (call.ids[i] >= 0) ++mine[static_cast<size_t>(call.ids[i])];
      };
      call.run(*layer, call.with_ids(call.ids));
      add();
      call.choose(*layer);
      call.run(*layer, call.with_gate());
      add();
      const void* const where = layer->expert_loads().data;
      layer->grow(80);
      EXPECT_EQ(layer->expert_loads().data, where);
      call.run(*layer, call.with_gate());
      add();
      const std::lock_guard lock(mutex);
      if (c.tp_size == 1 || c.shares_tokens()) {
        EXPECT_EQ(loads_of(*layer), mine);
      }
      for (size_t e = 0; e < expected.size(); ++e) counted[e] += loads_of(*layer)[e];
      if (comm.rank() % c.tp_size == 0 || c.shares_tokens())
        for (size_t e = 0; e < expected.size(); ++e) expected[e] += mine[e];
    });
    EXPECT_EQ(counted, expected) << (placed ? "placed" : "in order");
  }
}

// Ids that are resolved, and zero experts, which have neither slots nor loads.
TEST(PlacedIds, OfAnotherTypeOrNumberingAndBesideZeroExperts) {
  MoeConfig config = placed_config();
  config.gate = {};
  config.shared = {};
  config.gate.num_zero_experts = 3;
  const auto slots = random_slots(kExperts, kSlots, 8);
  const auto weights = placed_weights(config, slots, 1, 0, 5);
  auto options = options_of({1, "local+contiguous"}, slots);
  options.count_loads = true;
  const auto layer = MoeLayer::create(config, weights, options);
  const auto plain = MoeLayer::create(config, random_weights(config, 1, 0, 5),
                                      options_of({1, "local+masked"}, {}));
  Call call(config, 40, 9);
  Buffer<int64_t> wide(call.ids.view().shape);
  Buffer<int32_t> map({30});
  for (int64_t i = 0; i < 30; ++i)
    map[i] = static_cast<int32_t>(29 - i) % 15;  // 0 to 14: any choice
  for (int64_t i = 0; i < wide.count(); ++i) wide[i] = i % 7 == 0 ? -1 : (i * 5 + i / 4) % 30;
  auto args = call.with_ids(call.ids);
  args.ids = wide.view();
  args.expert_map = map.view();
  const auto bits = call.run(*layer, args);
  EXPECT_EQ(bits, call.run(*plain, args))
      << "one rank sums in the order of k, wherever experts are";
  std::vector<int64_t> expected(kExperts);
  for (int64_t i = 0; i < wide.count(); ++i)
    if (wide[i] >= 0 && map[wide[i]] < kExperts) ++expected[static_cast<size_t>(map[wide[i]])];
  EXPECT_EQ(loads_of(*layer), expected);
  EXPECT_EQ(call.run(*layer, call.with_gate()), call.run(*plain, call.with_gate())) << "the gate";
}

// Biases, and scales of fp8, move with their experts; one rank sums in the order of k.
TEST(PlacedWeights, OfEveryFormHaveTheBitsOfExpertsInOrder) {
  MoeConfig config = placed_config();
  config.expert_bias = true;
  const LayerWeights bf16 = random_weights(config, 1, 0, 5);
  for (const LayerWeights& all : {bf16, f8_weights(bf16, {128, 128}, {1, ScaleBlock::kWhole})}) {
    const auto slots = random_slots(kExperts, kSlots, 6);
    const auto plain = MoeLayer::create(config, all, options_of({1, "local+contiguous"}, {}));
    const auto layer = MoeLayer::create(config, weights_of_slots(all, slots),
                                        options_of({1, "local+contiguous"}, slots));
    Call call(config, 40, 9);
    EXPECT_EQ(call.run(*layer, call.with_gate()), call.run(*plain, call.with_gate()))
        << dtype_name(all.experts.w1.dtype);
  }
}

TEST(PlacedWeights, HaveZerosWhereThereIsNoExpertAndRefuseOnesThatAreMissing) {
  const LayerWeights all = random_weights(placed_config(), 2, 0, 5);  // of experts 0 to 5
  const auto slots = std::vector<int32_t>{-1, 5};
  const LayerWeights two = weights_of_slots(all, slots);
  EXPECT_EQ(two.experts.num_slots, 2);
  const ConstTensor w2 = two.experts.w2;
  for (int64_t i = 0; i < w2.count() / 2; ++i) ASSERT_EQ(w2.as<Bf16>()[i].bits(), 0);
  const ConstTensor last = all.experts.w2.rows(5, 1);
  EXPECT_EQ(std::memcmp(w2.rows(1, 1).data, last.data, static_cast<size_t>(last.bytes())), 0);
  EXPECT_EQ(two.router.weight, all.router.weight);
  for (const int32_t expert : {6, -2}) {
    const Error error = error_of([&] { weights_of_slots(all, std::vector<int32_t>{0, expert}); });
    EXPECT_EQ(error.code(), Errc::ShapeMismatch);
    EXPECT_NE(std::string(error.what()).find("there are weights of 6"), std::string::npos);
  }
}

TEST(PlacedIds, ThatAreSlotsButNoExpertsAreRefused) {
  const auto slots = random_slots(kExperts, kSlots, 8);
  const auto layer =
      MoeLayer::create(placed_config(), placed_weights(placed_config(), slots, 1, 0, 5),
                       options_of({1, "local+contiguous"}, slots));
  Call call(placed_config(), 5, 1);
  call.ids[6] = kExperts;
  try {
    call.run(*layer, call.with_ids(call.ids));
    FAIL() << "id " << kExperts << " was taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::BadRouting);
    EXPECT_EQ(
        std::string(e.what()),
        "forward: expert id=12 on rank 0, ids are -1 (no expert) or in [0, E). Check the gate "
        "that made them.");
  }
}

// One rank that swaps alone is an error on all; once all have, the layer goes on.
TEST_P(Placed, TablesThatDifferAreAnErrorOnEveryRankAndTheLayerGoesOn) {
  const Case& c = GetParam();
  if (c.num_ranks == 1) return;
  std::vector<std::string> seen(static_cast<size_t>(c.num_ranks));
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    const auto at = static_cast<size_t>(comm.rank());
    const auto slots = random_slots(kExperts, kSlots, 3), other = random_slots(kExperts, kSlots, 4);
    const auto layer = MoeLayer::create(
        placed_config(), placed_weights(placed_config(), slots, comm.size(), comm.rank(), 5), comm,
        options_of(c, slots));
    Call call(placed_config(), 10, 7);
    const auto before = call.run(*layer, call.with_ids(call.ids));
    if (comm.rank() == 1) layer->set_placement(other);
    seen[at] = message_of(Errc::ShapeMismatch, [&] { call.run(*layer, call.with_ids(call.ids)); });
    EXPECT_TRUE(std::isnan(static_cast<float>(call.output[0])));
    if (comm.rank() == 1)
      layer->set_placement(slots);  // the table that others have, in another place
    EXPECT_EQ(call.run(*layer, call.with_ids(call.ids)), before);
    layer->set_placement(other);
    EXPECT_EQ(message_of(Errc::ShapeMismatch, [&] { call.run(*layer, call.with_ids(call.ids)); }),
              "");
  });
  for (const auto& message : seen) {
    EXPECT_TRUE(message.starts_with("forward: placement=")) << message;
    EXPECT_NE(message.find(" on rank 1, differs from that of rank 0, "), std::string::npos)
        << message;
    EXPECT_EQ(message, seen[0]) << "the same on every rank";
  }
}

TEST(PlacementErrors, AtCreationNameSlotAndRule) {
  const auto error_with = [](int num_ranks, std::vector<int32_t> slots) {
    std::vector<std::string> seen(static_cast<size_t>(num_ranks));
    run_local_ranks(num_ranks, [&](Communicator& comm) {
      seen[static_cast<size_t>(comm.rank())] = message_of(Errc::ShapeMismatch, [&] {
        MoeLayer::create(placed_config(),
                         random_weights(placed_config(), comm.size(), comm.rank(), 5), comm,
                         options_of({comm.size(), "auto"}, slots));
      });
    });
    for (const auto& message : seen) EXPECT_EQ(message, seen[0]);
    return seen[0];
  };
  auto slots = random_slots(kExperts, 15, 1);
  EXPECT_EQ(error_with(2, slots),
            "create: placement has 15 slots on 2 ranks, each must have as many. Pass a multiple of "
            "the ranks.");
  slots = random_slots(kExperts, 16, 1);
  slots[7] = 12;
  EXPECT_EQ(error_with(2, slots),
            "create: placement[7]=12, need an expert of 0 to 11 or -1 for none. Pass global ids.");
  std::ranges::replace(slots, 12, -2);
  EXPECT_EQ(error_with(2, slots),
            "create: placement[7]=-2, need an expert of 0 to 11 or -1 for none. Pass global ids.");
  slots = random_slots(kExperts, 16, 1);
  std::ranges::replace(slots, 5, 4);
  EXPECT_EQ(error_with(2, slots),
            "create: placement of 16 slots has no expert 5, each of 12 needs a slot. Give it one.");
  EXPECT_EQ(error_with(1, std::vector<int32_t>(5000, 0)),
            "create: placement has 5000 slots, at most 4096. Have fewer replicas.");
  EXPECT_EQ(error_with(2, random_slots(kExperts, 16, 1)),
            "create: weights have num_slots=0, the placement 8 on a rank. Pass the weights of this "
            "rank's slots.");
}

TEST(PlacementErrors, ThatRanksGiveOtherSlotsIsSeenAtCreation) {
  std::vector<std::string> seen(2);
  run_local_ranks(2, [&](Communicator& comm) {
    const auto slots = random_slots(kExperts, kSlots, static_cast<uint64_t>(comm.rank()));
    seen[static_cast<size_t>(comm.rank())] = message_of(Errc::ShapeMismatch, [&] {
      MoeLayer::create(placed_config(), placed_weights(placed_config(), slots, 2, comm.rank(), 5),
                       comm, options_of({2, "auto"}, slots));
    });
  });
  for (const auto& message : seen)
    EXPECT_EQ(message,
              "create: placement of rank 1 differs from that of rank 0, it must be equal on every "
              "rank. Pass the same config and options.");
}

TEST(PlacementErrors, OfASwapLeaveTheOldTableInUse) {
  const auto slots = random_slots(kExperts, kSlots, 3);
  const auto layer =
      MoeLayer::create(placed_config(), placed_weights(placed_config(), slots, 1, 0, 5),
                       options_of({1, "local+contiguous"}, slots));
  Call call(placed_config(), 10, 7);
  const auto before = call.run(*layer, call.with_gate());
  auto wrong = slots;
  wrong.pop_back();
  EXPECT_EQ(message_of(Errc::ShapeMismatch, [&] { layer->set_placement(wrong); }),
            "set_placement: slots=19, the layer has 20. Pass the expert in each of them.");
  wrong = slots;
  std::ranges::replace(wrong, 3, -1);
  EXPECT_EQ(
      message_of(Errc::ShapeMismatch, [&] { layer->set_placement(wrong); }),
      "set_placement: placement of 20 slots has no expert 3, each of 12 needs a slot. Give it "
      "one.");
  EXPECT_EQ(call.run(*layer, call.with_gate()), before);

  const auto in_order = MoeLayer::create(placed_config(), random_weights(placed_config(), 1, 0, 5),
                                         options_of({1, "local+contiguous"}, {}));
  EXPECT_FALSE(in_order->expert_loads().present());
  try {
    in_order->set_placement(slots);
    FAIL() << "a layer without slots took them";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_EQ(
        std::string(e.what()),
        "set_placement: the layer has no placement, its experts stand in their order. Create it "
        "with LayerOptions::placement.");
  }
}

TEST(PlacedLayer, IsMadeAsTheGuideShows) {
  run_local_ranks(2, [&](Communicator& comm) {
    const auto num_ranks = static_cast<size_t>(comm.size()),
               rank = static_cast<size_t>(comm.rank());
    const auto slots = random_slots(kExperts, kSlots, 3);
    const MoeConfig config = placed_config();
    const LayerWeights all = random_weights(config, 1, 0, 5);
    // [placed]
    LayerOptions options;
    options.placement = slots;   // the expert in each weight slot: a row of physical_to_logical
    options.count_loads = true;  // optional
    const size_t each = slots.size() / num_ranks;
    const LayerWeights weights = weights_of_slots(all, std::span(slots).subspan(rank * each, each));
    const auto layer = MoeLayer::create(config, weights, comm, options);
    // [placed]
    EXPECT_EQ(layer->expert_loads().count(), kExperts);
  });
}

}  // namespace
}  // namespace switchyard::testing
