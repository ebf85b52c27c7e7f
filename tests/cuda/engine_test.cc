// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/engine_test.cc -- what engines hand over, on a GPU: rows with gaps, ids of another
// numbering, experts in other layouts, capacity that grows, a whole model in one graph.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

#include "switchyard/fused_experts.h"
#include "testing/cuda_graph.h"
#include "testing/cuda_layer.h"
#include "testing/engine_weights.h"

namespace switchyard::testing {
namespace {

LayerOptions engine_options(int64_t max_tokens) {
  LayerOptions o;
  o.max_tokens = max_tokens;
  o.device = DeviceKind::Cuda;
  o.backend = shared_cuda_backend();
  return o;
}

// What `layer` gives, on the host.
Buffer<Bf16> outcome(MoeLayer& layer, CudaCall& call, const ForwardArgs& args) {
  layer.forward(args);
  layer.wait(args.stream);
  return call.output.host();
}

TEST(CudaEngine, ExpertMapAndSentinelsEqualTheLayersOwnIds) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const auto weights = random_device_weights(small_config(), cuda_backend(), 3);
  auto o = engine_options(100);
  o.out_of_range_ids = OutOfRangeIds::NoExpert;
  const auto layer = MoeLayer::create(small_config(), weights, o);
  CudaCall call(small_config(), 100);
  Buffer<int32_t> own = call.ids.host(), engine(Shape{100, 4}), map({48});
  for (int64_t g = 0; g < 48; ++g) map[g] = static_cast<int32_t>(g % 3 == 0 ? g / 3 : -1);
  for (int64_t i = 0; i < own.count(); ++i) {
    engine[i] = i % 7 == 0 ? (i % 2 == 0 ? 1000 : 1) : 3 * own[i];
    if (i % 7 == 0) own[i] = -1;
  }
  CudaBuffer<int32_t> own_ids(own), engine_ids(engine), expert_map(map);
  auto args = call.args_given_routing(nullptr, call.output.view());
  args.ids = own_ids.view();
  const auto expected = outcome(*layer, call, args);
  args.ids = engine_ids.view();
  args.expert_map = expert_map.view();
  EXPECT_TRUE(same_bits(outcome(*layer, call, args), expected));
}

TEST(CudaEngine, ARankMayHoldFewerExpertsThanATokenChooses) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const auto weights = random_device_weights(small_config(), cuda_backend(), 3);
  for (const int64_t tokens : {1, 100, 1000})
    for (const int64_t num : {1, 3})
      for (const char* strategy : {"contiguous", "masked"}) {
        auto o = engine_options(tokens);
        o.strategy = strategy;
        MoeConfig few = small_config();
        few.num_experts = num, few.ids_are_given = true;
        const LayerWeights held = held_by_rank(weights, 5, num);
        CudaCall call(small_config(), tokens);
        Buffer<int32_t> own = call.ids.host(), map = map_of_rank(16, 5, num);
        for (int64_t i = 0; i < own.count(); ++i)
          if (map[own[i]] < 0) own[i] = -1;
        CudaBuffer<int32_t> own_ids(own), expert_map(map);
        auto args = call.args_given_routing(nullptr, call.output.view());
        args.ids = own_ids.view();
        const auto whole = MoeLayer::create(small_config(), weights, o);
        const auto expected = outcome(*whole, call, args);
        args.ids = call.ids.view();
        args.expert_map = expert_map.view();
        EXPECT_TRUE(same_bits(outcome(*MoeLayer::create(few, held, o), call, args), expected))
            << strategy << ", " << tokens << " tokens, " << num;
      }
}

TEST(CudaEngine, RowsWithGapsHaveTheSameBits) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  constexpr int64_t kRows = 50, kStride = 264;
  const auto weights = random_device_weights(small_config(), cuda_backend(), 3);
  auto o = engine_options(kRows);
  o.strided_rows = true;
  const auto layer = MoeLayer::create(small_config(), weights, o);
  CudaCall call(small_config(), kRows);
  const auto expected = outcome(*layer, call, call.args(nullptr, call.output.view()));
  Buffer<Bf16> wide({kRows, kStride});
  const Buffer<Bf16>& rows = call.hidden.host();
  for (int64_t i = 0; i < rows.count(); ++i) wide[i / 256 * kStride + i % 256] = rows[i];
  CudaBuffer<Bf16> hidden(wide), output(Shape{kRows, kStride});
  auto args = call.args(nullptr, output.view());
  args.hidden.data = hidden.view().data;
  args.output.shape = {kRows, 256};
  args.hidden_stride = args.output_stride = kStride;
  layer->forward(args);
  layer->wait();
  const Buffer<Bf16>& got = output.host();
  EXPECT_TRUE(got.guards_intact());
  for (int64_t i = 0; i < got.count(); ++i) {
    const bool gap = i % kStride >= 256;
    ASSERT_EQ(got[i].bits(),
              gap ? poison_value<Bf16>().bits() : expected[i / kStride * 256 + i % kStride].bits())
        << i;
  }
}

TEST(CudaEngine, WeightsOfAnyLayoutGiveTheSameBits) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  auto c = small_config();
  c.expert_bias = true;
  const auto host = random_weights(c, 1, 0, 3);
  round_biases(host);
  const auto device = to_device(host, c, 1, cuda_backend());
  CudaCall call(c, 40);
  const auto args = call.args(nullptr, call.output.view());
  const auto expected = outcome(*MoeLayer::create(c, device, engine_options(40)), call, args);
  for (const auto& layout : kEngineLayouts) {
    EngineWeights engine(host, layout);
    const auto copied = to_device(engine.view, c, 1, cuda_backend());
    EXPECT_TRUE(is_arranged(copied.experts));
    EXPECT_TRUE(
        same_bits(outcome(*MoeLayer::create(c, copied, engine_options(40)), call, args), expected));

    CudaBuffer<Bf16> w1(engine.w1), w2(engine.w2), b1_bf16(engine.b1_bf16), b2_bf16(engine.b2_bf16);
    CudaBuffer<float> b1(engine.b1), b2(engine.b2);
    LayerWeights on_device = device;
    on_device.experts = {.order = engine.view.experts.order,
                         .w1 = w1.view(),
                         .w2 = w2.view(),
                         .b1 = layout.bf16_biases ? b1_bf16.view() : b1.view(),
                         .b2 = layout.bf16_biases ? b2_bf16.view() : b2.view(),
                         .transposed = layout.transposed};
    const auto layer = MoeLayer::create(c, on_device, engine_options(40));
    EXPECT_TRUE(same_bits(outcome(*layer, call, args), expected));
  }
}

TEST(CudaEngine, ALayerGrows) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const auto weights = random_device_weights(small_config(), cuda_backend(), 3);
  const auto layer = MoeLayer::create(small_config(), weights, engine_options(16));
  const auto large = MoeLayer::create(small_config(), weights, engine_options(300));
  CudaCall call(small_config(), 300);
  const auto args = call.args(nullptr, call.output.view());
  const auto expected = outcome(*large, call, args);
  EXPECT_THROW(layer->forward(args), Error);
  layer->grow(300);
  EXPECT_TRUE(same_bits(outcome(*layer, call, args), expected));
}

TEST(CudaEngine, FusedExpertsAreCapturedAndTellTheirErrors) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const auto weights = random_device_weights(small_config(), cuda_backend(), 3);
  auto o = engine_options(64);
  CudaCall call(small_config(), 64);
  const Stream stream;
  auto args = call.args_given_routing(stream.get(), call.output.view());
  const auto expected = outcome(*MoeLayer::create(small_config(), weights, o), call, args);
  const size_t bytes = MoeLayer::workspace_bytes(small_config(), 1, o);
  const auto memory = allocate(cuda_backend(), bytes);
  args.workspace = {memory.get(), bytes};
  CudaBuffer<Bf16> output(Shape{64, 256});
  args.output = output.view();
  fused_experts(small_config(), weights, o, args);
  Graph graph(stream.get(), [&] { fused_experts(small_config(), weights, o, args); });
  graph.launch(stream.get());
  wait_fused_experts(stream.get());
  EXPECT_TRUE(same_bits(output.host(), expected));
  Buffer<int32_t> bad = call.ids.host();
  bad[5] = 16;
  copy_to_device(cuda_backend(), call.ids.view(), bad.data());
  graph.launch(stream.get());
  EXPECT_THROW(wait_fused_experts(stream.get()), Error);
  EXPECT_NO_THROW(wait_fused_experts(stream.get()));
  forget_fused_experts();
}

// What a backend takes, whoever else takes memory of the GPU.
class CountingAllocator final : public Allocator {
 public:
  void* allocate(size_t bytes) override {
    void* address = nullptr;
    if (cudaMalloc(&address, bytes) != cudaSuccess) return nullptr;
    taken += static_cast<int64_t>(bytes);
    return address;
  }
  void free(void* address, size_t bytes) noexcept override {
    cudaFree(address);
    taken -= static_cast<int64_t>(bytes);
  }

  int64_t taken = 0;
};

// 48 layers of qwen3-30b-a3b's shape over one workspace, one after the other in one graph. They
// share their weights, so that the memory beside weights is what is seen.
TEST(CudaEngine, AModelTakesOneWorkspaceAndIsCapturedAsAWhole) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  size_t free = 0, total = 0;
  SWITCHYARD_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  if (free < size_t{4} << 30) GTEST_SKIP() << "less than 4 GiB free";
  MoeConfig c;
  c.hidden = 2048, c.intermediate = 768, c.num_experts = 128, c.top_k = 8;
  c.gate.renormalize = true;
  const auto weights = random_device_weights(c, cuda_backend(), 3);
  constexpr int kLayers = 48;
  constexpr int64_t kTokens = 64;
  CudaCall call(c, kTokens);
  auto o = engine_options(8192);
  const auto memory = std::make_shared<CountingAllocator>();
  o.backend = make_cuda_backend({.allocator = memory});
  o.shared_workspace = std::make_shared<SharedWorkspace>(o.backend);
  std::vector<std::unique_ptr<MoeLayer>> layers;
  for (int i = 0; i < kLayers; ++i) layers.push_back(MoeLayer::create(c, weights, o));
  const Stream stream;
  CudaBuffer<Bf16> outputs(Shape{kLayers * kTokens, c.hidden});
  const auto run_model = [&] {
    for (int i = 0; i < kLayers; ++i)
      layers[static_cast<size_t>(i)]->forward(
          call.args(stream.get(), outputs.view().rows(i * kTokens, kTokens)));
  };
  run_model();
  layers.back()->wait(stream.get());
  EXPECT_LE(memory->taken, int64_t{450} * 1000 * 1000);
  RecordProperty("bytes", std::to_string(memory->taken));
  Graph graph(stream.get(), run_model);
  const int replays = std::getenv("SWITCHYARD_SMALL") != nullptr ? 2 : 100;
  for (int replay = 0; replay < replays; ++replay) {
    call.fill_hidden(100 + static_cast<uint64_t>(replay));
    graph.launch(stream.get());
    SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
    const Buffer<Bf16> replayed = outputs.host();
    run_model();
    layers.back()->wait(stream.get());
    ASSERT_TRUE(same_bits(outputs.host(), replayed)) << "replay " << replay;
  }
  for (const auto& layer : layers) EXPECT_NO_THROW(layer->wait(stream.get()));
}

}  // namespace
}  // namespace switchyard::testing
