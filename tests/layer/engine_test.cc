// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/engine_test.cc -- what engines hand over as they have it: ids of another numbering,
// rows with gaps, experts in other layouts, memory and threads of their own.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <thread>

#include "switchyard/executor.h"
#include "switchyard/fused_experts.h"
#include "switchyard/oracle.h"
#include "testing/engine_weights.h"
#include "testing/error_of.h"
#include "testing/small_layer.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::error_of;
using testing::SmallCall;

constexpr int64_t kTokens = 33;

MoeConfig config() {
  return testing::small_layer();
}
LayerOptions options(const std::string& strategy = "contiguous") {
  return testing::small_options(strategy);
}

bool says(const Error& e, const std::string& part) {
  return std::string(e.what()).find(part) != std::string::npos;
}

template <class T>
Buffer<T> as_type(const Buffer<int32_t>& ids) {
  Buffer<T> wide({kTokens, 4});
  for (int64_t i = 0; i < ids.count(); ++i) wide[i] = ids[i];
  return wide;
}

// ---- ids

TEST(ExpertMap, GivesTheLayersIdOfTheEnginesOwn) {
  const auto weights = random_weights(config(), 1, 0, 3);
  // 40 experts in the engine: those of the layer are scattered among those that it does not hold.
  Buffer<int32_t> map({40}), engine_id({16});
  for (int64_t g = 0; g < 40; ++g) map[g] = -1;
  for (int64_t e = 0; e < 16; ++e) map[(7 * e + 3) % 40] = static_cast<int32_t>(e);
  for (int64_t g = 0; g < 40; ++g)
    if (map[g] >= 0) engine_id[map[g]] = static_cast<int32_t>(g);
  for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
    const auto layer = MoeLayer::create(config(), weights, options(strategy));
    SmallCall expected(kTokens), call(kTokens);
    for (int64_t i = 0; i < call.ids.count(); ++i) {
      const bool elsewhere = i % 3 == 0;  // 4 is not in the map's image
      call.ids[i] = elsewhere ? 4 : engine_id[call.ids[i]];
      if (elsewhere) expected.ids[i] = -1;
    }
    ASSERT_EQ(map[4], -1);
    layer->forward(expected.with_ids());
    layer->wait();
    auto args = call.with_ids();
    args.expert_map = std::as_const(map).view();
    layer->forward(args);
    layer->wait();
    EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << strategy;
    const auto wide = as_type<int64_t>(call.ids);
    args.ids = wide.view();
    call.output[0] = testing::poison_value<Bf16>();
    layer->forward(args);
    layer->wait();
    EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << strategy << ", i64";
  }
}

TEST(ExpertMap, ARankMayHoldFewerExpertsThanATokenChooses) {
  const auto weights = random_weights(config(), 1, 0, 3);
  for (const int64_t num : {1, 3})
    for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
      MoeConfig few = config();
      few.num_experts = num, few.ids_are_given = true;
      const auto whole = MoeLayer::create(config(), weights, options(strategy));
      const auto layer =
          MoeLayer::create(few, testing::held_by_rank(weights, 5, num), options(strategy));
      const Buffer<int32_t> map = testing::map_of_rank(16, 5, num);
      SmallCall expected(kTokens), call(kTokens);
      for (int64_t i = 0; i < call.ids.count(); ++i)
        if (map[call.ids[i]] < 0) expected.ids[i] = -1;
      whole->forward(expected.with_ids());
      whole->wait();
      auto args = call.with_ids();
      args.expert_map = map.view();
      layer->forward(args);
      layer->wait();
      EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << strategy << ", " << num;
    }
}

TEST(GivenIds, GoWithoutAGate) {
  MoeConfig c = config();
  c.ids_are_given = true;
  const auto weights = random_weights(c, 1, 0, 3);
  EXPECT_FALSE(weights.router.weight.present());
  const auto layer = MoeLayer::create(c, weights, options());
  SmallCall call(kTokens);
  EXPECT_TRUE(says(error_of([&] { layer->forward(call.with_gate()); }), "no router weights"));
  EXPECT_TRUE(says(error_of([&] { layer->gate(); }), "no router weights"));
  const auto routed = random_weights(config(), 1, 0, 3);
  EXPECT_TRUE(says(error_of([&] { MoeLayer::create(c, routed, options()); }), "router is given"));
  EXPECT_TRUE(
      says(error_of([&] { make_gate(c, routed.router, make_cpu_backend(1)); }), "ids are given"));
  c.ids_are_given = false, c.top_k = 17;
  EXPECT_TRUE(says(error_of([&] { MoeLayer::create(c, weights, options()); }), "top_k=17"));
}

// A token's ids beyond its experts are -1, as those of replicas that other ranks hold may be.
TEST(GivenIds, MayBeMoreThanAllRanksHaveExperts) {
  MoeConfig c = config();
  c.num_experts = 4, c.top_k = 7, c.ids_are_given = true;
  c.shared = {};
  Buffer<int32_t> ids({kTokens, 7});
  const auto chosen = testing::random_ids(kTokens, 4, 3, testing::Skew::Balanced, 5);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t k = 0; k < 7; ++k) ids[7 * t + k] = k % 2 == 1 ? chosen[3 * t + k / 2] : -1;
  const auto router = testing::random_f32({kTokens, 7}, 6, 0.1f, 1.0f);
  const auto hidden = testing::random_bf16({kTokens, c.hidden}, 7);
  Buffer<double> expected({kTokens, c.hidden});
  oracle_forward(expected.view(), c, random_weights(c, 1, 0, 8), hidden.view(), ids.view(),
                 router.view());
  for (const char* strategy : {"normal+contiguous", "all_gather+masked", "low_latency+hybrid"})
    run_local_ranks(2, [&](Communicator& comm) {
      const auto weights = random_weights(c, 2, comm.rank(), 8);
      const auto layer = MoeLayer::create(c, weights, comm, options(strategy));
      Buffer<Bf16> output({kTokens, c.hidden});
      layer->forward({.output = output.view(),
                      .hidden = hidden.view(),
                      .ids = ids.view(),
                      .weights = router.view()});
      layer->wait();
      EXPECT_LE(compare(std::as_const(output).view(), std::as_const(expected).view()).rel_error,
                4e-3)
          << strategy;
    });
}

TEST(ExpertMap, RefusesWhatItCannotMap) {
  const auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), options());
  Buffer<int32_t> map({20});
  std::iota(map.data(), map.data() + 20, 0);
  for (int64_t g = 16; g < 20; ++g) map[g] = -1;
  SmallCall call(kTokens);
  auto args = call.with_ids();
  args.expert_map = std::as_const(map).view();
  layer->forward(args);
  EXPECT_NO_THROW(layer->wait());

  call.ids[9] = 20;  // past the map
  layer->forward(args);
  auto error = error_of([&] { layer->wait(); });
  EXPECT_EQ(error.code(), Errc::BadRouting);
  EXPECT_TRUE(says(error, "id=20")) << error.what();
  EXPECT_TRUE(std::isnan(static_cast<float>(call.output[0])));
  call.ids[9] = 3;
  map[3] = 16;  // an expert that the layer does not have
  layer->forward(args);
  error = error_of([&] { layer->wait(); });
  EXPECT_TRUE(says(error, "id=16")) << error.what();

  map[3] = 3;
  args.expert_map = std::as_const(map).view().rows(0, 15);
  EXPECT_TRUE(says(error_of([&] { layer->forward(args); }), "expert_map"));
  args.expert_map = std::as_const(call.weights).view();
  EXPECT_TRUE(says(error_of([&] { layer->forward(args); }), "expert_map"));
  auto gated = call.with_gate();
  gated.expert_map = std::as_const(map).view();
  EXPECT_TRUE(says(error_of([&] { layer->forward(gated); }), "expert_map"));
}

TEST(OutOfRangeIds, MayBeNoExpert) {
  auto o = options();
  const auto weights = random_weights(config(), 1, 0, 3);
  const auto strict = MoeLayer::create(config(), weights, o);
  o.out_of_range_ids = OutOfRangeIds::NoExpert;
  const auto lenient = MoeLayer::create(config(), weights, o);
  SmallCall expected(kTokens), call(kTokens);
  Buffer<int64_t> ids = as_type<int64_t>(call.ids);
  const int64_t sentinels[] = {16, -2, 1000, INT32_MIN, INT32_MAX, INT64_MAX, int64_t{1} << 32};
  for (int64_t i = 0; i < 21; ++i) {
    expected.ids[6 * i] = -1;
    ids[6 * i] = sentinels[i % 7];
    call.ids[6 * i] = static_cast<int32_t>(std::clamp<int64_t>(ids[6 * i], INT32_MIN, INT32_MAX));
  }
  strict->forward(expected.with_ids());
  strict->wait();
  auto args = call.with_ids();
  lenient->forward(args);
  lenient->wait();
  EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << "i32";
  args.ids = std::as_const(ids).view();
  call.output[0] = testing::poison_value<Bf16>();
  lenient->forward(args);
  lenient->wait();
  EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << "i64";
  strict->forward(args);
  EXPECT_EQ(error_of([&] { strict->wait(); }).code(), Errc::BadRouting);
}

TEST(OutOfRangeIds, OfSeveralRanksInPieces) {
  std::atomic<int> good = 0;
  run_local_ranks(4, [&](Communicator& comm) {
    auto o = options("normal+contiguous");
    o.token_pieces = 2;
    o.out_of_range_ids = OutOfRangeIds::NoExpert;
    const auto layer =
        MoeLayer::create(config(), random_weights(config(), 4, comm.rank(), 3), comm, o);
    SmallCall expected(kTokens, 5 + comm.rank()), call(kTokens, 5 + comm.rank());
    Buffer<int32_t> map({32});
    for (int64_t g = 0; g < 32; ++g) map[g] = static_cast<int32_t>(g % 2 == 0 ? g / 2 : -1);
    for (int64_t i = 0; i < call.ids.count(); ++i)
      call.ids[i] = i % 5 == 0 ? 1 + 2 * static_cast<int32_t>(i) : 2 * call.ids[i];
    for (int64_t i = 0; i < call.ids.count(); i += 5) expected.ids[i] = -1;
    layer->forward(expected.with_ids());
    auto args = call.with_ids();
    args.expert_map = std::as_const(map).view();
    layer->forward(args);
    layer->wait();
    good += testing::same_bits(call.output, expected.output);
  });
  EXPECT_EQ(good, 4);
}

// ---- rows with gaps

struct GappedCall : SmallCall {
  static constexpr int64_t kHiddenStride = 200, kOutputStride = 136;

  explicit GappedCall(int64_t num_tokens)
      : SmallCall(num_tokens),
        wide_hidden({num_tokens, kHiddenStride}),
        wide_output({num_tokens, kOutputStride}) {
    for (int64_t t = 0; t < num_tokens; ++t)
      for (int64_t c = 0; c < 128; ++c) wide_hidden[t * kHiddenStride + c] = hidden[t * 128 + c];
  }
  ForwardArgs gapped(ForwardArgs args) {
    args.hidden.data = wide_hidden.data();
    args.output.data = wide_output.data();
    args.hidden_stride = kHiddenStride;
    args.output_stride = kOutputStride;
    return args;
  }
  bool gaps_are_untouched() const {
    for (int64_t i = 0; i < wide_output.count(); ++i)
      if (i % kOutputStride >= 128 && wide_output[i].bits() != 0x7fc1) return false;
    return wide_output.guards_intact();
  }
  bool gave(const Buffer<Bf16>& expected) const {
    for (int64_t i = 0; i < expected.count(); ++i)
      if (wide_output[i / 128 * kOutputStride + i % 128].bits() != expected[i].bits()) return false;
    return true;
  }
  Buffer<Bf16> wide_hidden, wide_output;
};

TEST(StridedRows, HaveTheBitsOfRowsWithoutGaps) {
  auto o = options();
  o.strided_rows = true;
  const auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), o);
  for (const int64_t num_tokens : {0, 1, 33}) {
    GappedCall call(num_tokens);
    layer->forward(call.with_gate());
    layer->forward(call.gapped(call.with_gate()));
    layer->wait();
    EXPECT_TRUE(call.gave(call.output)) << num_tokens;
    EXPECT_TRUE(call.gaps_are_untouched()) << num_tokens;
  }
}

TEST(StridedRows, AreRefusedWhereTheyCannotBe) {
  auto o = options();
  const auto weights = random_weights(config(), 1, 0, 3);
  const auto plain = MoeLayer::create(config(), weights, o);
  o.strided_rows = true;
  const auto layer = MoeLayer::create(config(), weights, o);
  EXPECT_GT(layer->workspace_bytes(), plain->workspace_bytes());
  GappedCall call(kTokens);
  auto args = call.gapped(call.with_gate());
  EXPECT_EQ(error_of([&] { plain->forward(args); }).code(), Errc::Unsupported);
  for (const int64_t stride : {int64_t{127}, int64_t{-128}, INT64_MAX, INT64_MIN}) {
    args.output_stride = stride;
    EXPECT_TRUE(says(error_of([&] { layer->forward(args); }), "output_stride"));
  }
  args = call.gapped(call.with_gate());
  // Between rows of hidden: none of the same element, and yet a row of one would end in the other.
  args.output.data = call.wide_hidden.data() + 136;
  args.output_stride = 200;
  EXPECT_TRUE(says(error_of([&] { layer->forward(args); }), "overlaps"));
}

// ---- experts in other layouts

TEST(EngineWeights, OfAnyLayoutGiveTheSameBits) {
  auto c = config();
  c.expert_bias = true;
  const auto weights = random_weights(c, 1, 0, 3);
  testing::round_biases(weights);
  const auto layer = MoeLayer::create(c, weights, options());
  SmallCall expected(kTokens), call(kTokens);
  layer->forward(expected.with_ids());
  Buffer<double> exact({kTokens, 128}), other({kTokens, 128});
  oracle_forward(exact.view(), c, weights, std::as_const(expected.hidden).view());
  for (const auto& layout : testing::kEngineLayouts) {
    const testing::EngineWeights engine(weights, layout);
    const auto of_engine = MoeLayer::create(c, engine.view, options());
    of_engine->forward(call.with_ids());
    of_engine->wait();
    EXPECT_TRUE(testing::same_bits(call.output, expected.output));
    oracle_forward(other.view(), c, engine.view, std::as_const(expected.hidden).view());
    EXPECT_TRUE(testing::same_bits(other, exact)) << "of the oracle, too";
    const bool as_it_is = !layout.transposed && !layout.interleaved && !layout.bf16_biases;
    EXPECT_EQ(is_arranged(engine.view.experts), as_it_is);
    EXPECT_EQ(arranged_bytes(engine.view.experts) == 0, as_it_is);
  }
}

TEST(EngineWeights, AreArrangedOnceAndMayGo) {
  const auto weights = random_weights(config(), 1, 0, 3);
  auto o = options();
  o.backend = make_cpu_backend(2);
  SmallCall expected(kTokens), call(kTokens);
  MoeLayer::create(config(), weights, o)->forward(expected.with_ids());
  LayerWeights arranged;
  {
    const testing::EngineWeights engine(weights, {.transposed = true, .interleaved = true});
    EXPECT_EQ(arranged_bytes(engine.view.experts), 2 * 16 * 3 * 64 * 128);
    arranged = arrange_weights(engine.view, config(), 1, *o.backend);
    EXPECT_EQ(
        error_of([&] { make_executor(config(), {}, engine.view.experts, 1, 0, o.backend); }).code(),
        Errc::Unsupported);
  }
  EXPECT_TRUE(is_arranged(arranged.experts));
  MoeLayer::create(config(), arranged, o)->forward(call.with_ids());
  EXPECT_TRUE(testing::same_bits(call.output, expected.output));
}

TEST(EngineWeights, OfWrongShapesAreRefused) {
  const auto weights = random_weights(config(), 1, 0, 3);
  auto wrong = weights;
  wrong.experts.transposed = true;
  EXPECT_EQ(error_of([&] { MoeLayer::create(config(), wrong, options()); }).code(),
            Errc::ShapeMismatch);
  wrong = weights;
  wrong.shared.order = GateUpOrder::Interleaved;
  EXPECT_EQ(error_of([&] { MoeLayer::create(config(), wrong, options()); }).code(),
            Errc::Unsupported);
  wrong = weights;
  wrong.experts.order = static_cast<GateUpOrder>(9);
  EXPECT_EQ(error_of([&] { MoeLayer::create(config(), wrong, options()); }).code(),
            Errc::ShapeMismatch);
}

// It would take rows of w1 that are all alike for gates and ups, and compute something else.
TEST(EngineWeights, WithoutAGateAreNotInterleaved) {
  auto c = config();
  c.activation.kind = ActivationKind::Relu2;
  auto weights = random_weights(c, 1, 0, 3);
  EXPECT_NO_THROW(MoeLayer::create(c, weights, options()));
  weights.experts.order = GateUpOrder::Interleaved;
  const auto error = error_of([&] { MoeLayer::create(c, weights, options()); });
  EXPECT_EQ(error.code(), Errc::ShapeMismatch);
  EXPECT_TRUE(says(error, "order=Interleaved")) << error.what();
}

// ---- capacity

TEST(Grow, TakesMoreTokensWithTheSameBits) {
  for (const bool interleaved : {false, true}) {
    const auto weights = random_weights(config(), 1, 0, 3);
    const testing::EngineWeights engine(weights, {.interleaved = interleaved});
    auto o = options();
    const auto layer = MoeLayer::create(config(), engine.view, o);
    o.max_tokens = 200;
    const auto large = MoeLayer::create(config(), weights, o);
    SmallCall expected(150), call(150), few(kTokens), again(kTokens);
    layer->forward(few.with_gate());
    EXPECT_EQ(error_of([&] { layer->forward(call.with_gate()); }).code(), Errc::ShapeMismatch);
    layer->grow(200);
    EXPECT_EQ(layer->workspace_bytes(), large->workspace_bytes());
    layer->forward(call.with_gate());
    large->forward(expected.with_gate());
    EXPECT_TRUE(testing::same_bits(call.output, expected.output));
    layer->grow(10);  // it has more
    layer->forward(again.with_gate());
    layer->wait();
    EXPECT_TRUE(testing::same_bits(again.output, few.output));
  }
}

TEST(Grow, ThrowsWhatIsPendingAndThenStaysAsItWas) {
  auto o = options();
  o.workspace_limit_bytes = int64_t{4} << 20;
  const auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 3), o);
  SmallCall good(kTokens), bad(kTokens), again(kTokens);
  layer->forward(good.with_ids());
  bad.ids[0] = 99;
  layer->forward(bad.with_ids());
  EXPECT_EQ(error_of([&] { layer->grow(100); }).code(), Errc::BadRouting);
  EXPECT_EQ(error_of([&] { layer->grow(int64_t{1} << 40); }).code(), Errc::Unsupported);
  layer->forward(again.with_ids());
  layer->wait();
  EXPECT_TRUE(testing::same_bits(again.output, good.output));
}

TEST(Grow, OfRanks) {
  for (const char* strategy : {"normal+contiguous", "all_gather+masked"}) {
    std::atomic<int> good = 0;
    run_local_ranks(3, [&](Communicator& comm) {
      auto c = config();
      c.num_experts = 15;
      const auto weights = random_weights(c, 3, comm.rank(), 3);
      auto o = options(strategy);
      o.max_tokens = 150;
      const auto large = MoeLayer::create(c, weights, comm, o);
      o.max_tokens = 8;
      const auto layer = MoeLayer::create(c, weights, comm, o);
      layer->grow(150);
      SmallCall expected(140, 3 + comm.rank()), call(140, 3 + comm.rank());
      large->forward(expected.with_gate());
      layer->forward(call.with_gate());
      large->wait();
      layer->wait();
      good += testing::same_bits(call.output, expected.output);
    });
    EXPECT_EQ(good, 3) << strategy;
  }
}

// ---- a layer as a function

struct Scratch {
  Scratch(const MoeConfig& c, const LayerOptions& o)
      : bytes(MoeLayer::workspace_bytes(c, 1, o)), memory(allocate(*make_cpu_backend(1), bytes)) {}
  ForwardArgs lend(ForwardArgs args) const {
    args.workspace = {memory.get(), bytes};
    return args;
  }
  size_t bytes;
  std::shared_ptr<void> memory;
};

TEST(FusedExperts, AreALayerThatIsKept) {
  const auto o = options();
  const Scratch scratch(config(), o);
  for (const uint64_t seed : {3, 4, 3}) {
    const auto weights = random_weights(config(), 1, 0, seed);
    SmallCall expected(kTokens), call(kTokens);
    MoeLayer::create(config(), weights, o)->forward(expected.with_ids());
    for (int again = 0; again < 2; ++again) {
      call.output[0] = testing::poison_value<Bf16>();
      fused_experts(config(), weights, o, scratch.lend(call.with_ids()));
      EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << seed;
    }
  }
  forget_fused_experts();
}

TEST(FusedExperts, TellConfigsAndOptionsOfTheSameWeightsApart) {
  const auto weights = random_weights(config(), 1, 0, 3);
  auto scaled = config();
  scaled.gate.scale = 2;
  for (const auto& c : {config(), scaled, config()})
    for (const char* strategy : {"contiguous", "masked"}) {
      const auto o = options(strategy);
      SmallCall expected(kTokens), call(kTokens);
      MoeLayer::create(c, weights, o)->forward(expected.with_gate());
      const auto report = fused_experts(c, weights, o, Scratch(c, o).lend(call.with_gate()));
      EXPECT_TRUE(testing::same_bits(call.output, expected.output));
      EXPECT_EQ(layout_name(report.layout), std::string(strategy));
    }
  forget_fused_experts();
}

TEST(FusedExperts, ThrowWhatACallCausesAndRefuseCopies) {
  const auto o = options();
  const auto weights = random_weights(config(), 1, 0, 3);
  const Scratch scratch(config(), o);
  SmallCall call(kTokens);
  call.ids[3] = 16;
  EXPECT_EQ(
      error_of([&] { fused_experts(config(), weights, o, scratch.lend(call.with_ids())); }).code(),
      Errc::BadRouting);
  EXPECT_NO_THROW(wait_fused_experts());
  const testing::EngineWeights engine(weights, {.transposed = true});
  EXPECT_EQ(error_of([&] {
              fused_experts(config(), engine.view, o, scratch.lend(call.with_gate()));
            }).code(),
            Errc::Unsupported);
  EXPECT_EQ(error_of([&] { fused_experts(config(), weights, o, call.with_gate()); }).code(),
            Errc::ShapeMismatch)
      << "no workspace";
  forget_fused_experts();
}

TEST(FusedExperts, ServeThreadsInTurn) {
  const auto o = options();
  const auto weights = random_weights(config(), 1, 0, 3);
  SmallCall expected(kTokens);
  MoeLayer::create(config(), weights, o)->forward(expected.with_gate());
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        const Scratch scratch(config(), o);
        SmallCall call(kTokens);
        for (int i = 0; i < 5; ++i)
          fused_experts(config(), weights, o, scratch.lend(call.with_gate()));
        good += testing::same_bits(call.output, expected.output);
      });
  }
  EXPECT_EQ(good, 4);
  forget_fused_experts();
}

// ---- the host's own threads and memory

struct Tasks final : TaskRunner {
  int num_threads() const override { return 3; }
  void run(int64_t num_tasks, void (*task)(void*, int64_t), void* context) override {
    ++calls;
    std::atomic<int64_t> next = 0;
    std::vector<std::jthread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([&] {
        for (int64_t i; (i = next++) < num_tasks;) task(context, i);
      });
  }
  std::atomic<int> calls = 0;
};

struct Heap final : Allocator {
  void* allocate(size_t bytes) override {
    if (used + static_cast<int64_t>(bytes) > limit) return nullptr;
    used += static_cast<int64_t>(bytes);
    return ::operator new(bytes, std::align_val_t(Workspace::kAlignment));
  }
  void free(void* address, size_t bytes) noexcept override {
    used -= static_cast<int64_t>(bytes);
    ::operator delete(address, std::align_val_t(Workspace::kAlignment));
  }
  int64_t used = 0, limit = INT64_MAX;
};

TEST(HostsOwn, ThreadsAndMemoryServeABackend) {
  const auto weights = random_weights(config(), 1, 0, 3);
  SmallCall expected(kTokens), call(kTokens);
  MoeLayer::create(config(), weights, options())->forward(expected.with_gate());
  const auto tasks = std::make_shared<Tasks>();
  const auto heap = std::make_shared<Heap>();
  {
    auto o = options();
    o.backend = make_cpu_backend({.task_runner = tasks, .allocator = heap});
    const auto layer = MoeLayer::create(config(), weights, o);
    EXPECT_GE(heap->used, static_cast<int64_t>(layer->workspace_bytes() + layer->state_bytes()));
    const int64_t used = heap->used;
    layer->forward(call.with_gate());
    layer->wait();
    EXPECT_EQ(heap->used, used);
    heap->limit = used;
    const auto error = error_of([&] { MoeLayer::create(config(), weights, o); });
    EXPECT_EQ(error.code(), Errc::Unsupported);
  }
  EXPECT_TRUE(testing::same_bits(call.output, expected.output));
  EXPECT_GT(tasks->calls, 0);
  EXPECT_EQ(heap->used, 0);
  EXPECT_EQ(error_of([&] { make_cpu_backend({.num_threads = 2, .task_runner = tasks}); }).code(),
            Errc::ShapeMismatch);
}

}  // namespace
}  // namespace switchyard
