// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/named_gemms_test.cc -- configurations of grouped GEMMs that a call or a layer names: what
// is launched, and the bits.
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/backend.h"
#include "ops/ops.h"
#include "strategy/gemm_choice.h"
#include "switchyard/executor.h"
#include "switchyard/layer.h"
#include "testing/cuda_buffer.h"
#include "testing/cuda_layer.h"
#include "testing/error_of.h"
#include "testing/f8_weights.h"
#include "testing/launched_kernel.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::cuda_backend;
using testing::CudaBuffer;
using testing::message_of;

constexpr int64_t kExperts = 5, kRows = 700, kColumns = 512, kInner = 256;

cudaKernelNodeParams launched(const GroupedGemm& gemm) {
  return testing::launched_kernel(
      [&](CUstream_st* stream) { cuda_backend().ops().run(gemm, stream); });
}

// Threads and shared memory of a block tell compiled configurations apart.
TEST(NamedGemms, ACallLaunchesTheConfigurationThatItNames) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  CudaBuffer<Bf16> src({kRows, kInner}), weights({kExperts, kColumns, kInner}),
      dst({kRows, kColumns});
  CudaBuffer<int32_t> counts(Shape{kExperts});
  CudaBuffer<int64_t> first_row(Shape{kExperts + 1});
  GroupedGemm g;
  g.dst = dst.view(), g.src = src.view(), g.weights = weights.view();
  g.groups = {counts.view(), first_row.view()};
  g.max_rows = kRows;
  std::set<std::pair<unsigned, size_t>> seen;
  int num_run = 0;
  for (const GemmConfig& config : kGemmConfigs) {
    if (config.scaled()) continue;
    g.config = &config;
    const auto params = launched(g);
    EXPECT_EQ(params.blockDim.x, static_cast<unsigned>(config.threads())) << describe(config);
    EXPECT_EQ(params.sharedMemBytes, shared_bytes(config, kExperts)) << describe(config);
    EXPECT_EQ(cuda_backend().rows_of_tile(g), config.streams() ? config.rows : 0);
    if (!config.adds_chunks) seen.insert({params.blockDim.x, params.sharedMemBytes}), ++num_run;
  }
  EXPECT_EQ(std::ssize(seen), num_run);
  EXPECT_GT(num_run, 4);
}

// ---- layers

MoeConfig config_of(bool gated) {
  MoeConfig c;
  c.hidden = 272, c.intermediate = 264, c.num_experts = 8, c.top_k = 3;
  if (!gated) c.activation.kind = ActivationKind::Relu2;
  return c;
}

struct Call {
  Call(const MoeConfig& c, int64_t num_tokens)
      : hidden(testing::random_bf16({num_tokens, c.hidden}, 21)),
        ids(testing::random_ids(num_tokens, c.num_experts, c.top_k, testing::Skew::Balanced, 22)),
        weights(testing::random_f32({num_tokens, c.top_k}, 23, 0.1f, 1.0f)) {}

  std::vector<uint16_t> run(MoeLayer& layer) const {
    CudaBuffer<Bf16> rows(hidden);
    CudaBuffer<Bf16> output(hidden.view().shape);
    CudaBuffer<int32_t> experts(ids);
    CudaBuffer<float> of_experts(weights);
    layer.forward({.output = output.view(),
                   .hidden = rows.view(),
                   .ids = experts.view(),
                   .weights = of_experts.view()});
    layer.wait();
    const Buffer<Bf16>& host = output.host();
    EXPECT_TRUE(host.guards_intact());
    std::vector<uint16_t> bits(static_cast<size_t>(host.count()));
    std::memcpy(bits.data(), host.data(), bits.size() * sizeof(uint16_t));
    return bits;
  }

  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;
  Buffer<float> weights;
};

LayerOptions options_of(const std::string& strategy) {
  LayerOptions o;
  o.max_tokens = 400, o.masked_max_tokens = 400, o.strategy = strategy;
  o.device = DeviceKind::Cuda;
  o.backend = testing::shared_cuda_backend();
  return o;
}

// Few tokens, for which the rule gathers rows, and many, for which it does not.
void expect_same_bits(const MoeConfig& c, const LayerWeights& weights, DType experts) {
  StrategyRequest r;
  r.config = c;
  r.experts = experts;
  const auto [first, second] = gemm_candidates(r);
  ASSERT_GT(first.configs.size(), 1u);
  for (const char* strategy : {"contiguous", "masked"})
    for (const int64_t num_tokens : {1, 9, 400}) {
      const Call call(c, num_tokens);
      const LayerOptions plain = options_of(strategy);
      const auto expected = call.run(*MoeLayer::create(c, weights, plain));
      for (const auto& gemm1 : first.configs)
        for (const auto& gemm2 : second.configs) {
          LayerOptions named = plain;
          named.gemm1 = gemm1, named.gemm2 = gemm2;
          const auto layer = MoeLayer::create(c, weights, named);
          EXPECT_EQ(call.run(*layer), expected)
              << strategy << ", " << num_tokens << " tokens: " << layer->strategy().gemms;
        }
    }
}

TEST(NamedGemms, ALayerHasTheSameBitsInAnyPairOfConfigurations) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const bool gated : {true, false}) {
    const MoeConfig c = config_of(gated);
    expect_same_bits(c, to_device(random_weights(c, 1, 0, 24), c, 1, cuda_backend()), DType::Bf16);
  }
}

TEST(NamedGemms, SoHasALayerOfFp8) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const int64_t intermediate : {256, 272}) {  // whole groups that GEMM1 quantises, and not
    MoeConfig c = config_of(true);
    c.intermediate = intermediate;
    const LayerWeights host = random_weights(c, 1, 0, 25, fp8_blocks(c));
    expect_same_bits(c, to_device(host, c, 1, cuda_backend()), DType::F8E4m3);
  }
}

// What a lent backend may use counts, whatever the options say.
TEST(NamedGemms, AreRefusedOnFewerMultiprocessorsThanTheyTake) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const MoeConfig c = config_of(true);
  const LayerWeights weights = to_device(random_weights(c, 1, 0, 24), c, 1, cuda_backend());
  const Call call(c, 9);
  const auto expected = call.run(*MoeLayer::create(c, weights, options_of("contiguous")));
  for (const int num_sms : {1, 3})
    for (const GemmConfig& config : kGemmConfigs) {
      if (config.scaled() || config.adds_chunks) continue;
      LayerOptions o = options_of("contiguous");
      o.backend = make_cuda_backend({.num_sms = num_sms});
      o.gemm2 = describe(config);
      const bool refused = config.streams() || config.cluster() > num_sms;
      std::vector<uint16_t> bits;
      const std::string message =
          message_of(Errc::Unsupported, [&] { bits = call.run(*MoeLayer::create(c, weights, o)); });
      EXPECT_EQ(!message.empty(), refused) << o.gemm2 << ": " << message;
      if (refused)
        EXPECT_NE(message.find(cat("gemm2=", o.gemm2, ", it")), std::string::npos) << message;
      else
        EXPECT_EQ(bits, expected) << o.gemm2;
    }
  LayerOptions unknown = options_of("contiguous");
  unknown.gemm1 = "7x7";
  EXPECT_NE(message_of(Errc::Unsupported, [&] { MoeLayer::create(c, weights, unknown); })
                .find("gemm1=7x7, there are"),
            std::string::npos);
}

// An empty table leaves the rule; this GPU's own may say something else, never of other shapes.
TEST(NamedGemms, WithoutANameTheTableOfThisGpuOrTheRuleChooses) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  CudaBuffer<Bf16> src({kRows, kInner}), weights({kExperts, kColumns, kInner}),
      dst({kRows, kColumns});
  CudaBuffer<int32_t> counts(Shape{kExperts});
  CudaBuffer<int64_t> first_row(Shape{kExperts + 1});
  GroupedGemm g;
  g.dst = dst.view(), g.src = src.view(), g.weights = weights.view();
  g.groups = {counts.view(), first_row.view()};
  g.max_rows = kRows;
  const GemmShape shape{.num_experts = kExperts, .max_rows = kRows, .n = kColumns, .k = kInner};
  const GemmChoice choice =
      choose_gemm(shape, gemm_table(describe_device(DeviceKind::Cuda), tuned_gpus()));
  EXPECT_EQ(choice.by, GemmChooser::Rule);
  const auto params = launched(g);
  EXPECT_EQ(params.blockDim.x, static_cast<unsigned>(choice.config.threads()));
  EXPECT_EQ(params.sharedMemBytes, shared_bytes(choice.config, kExperts));
}

}  // namespace
}  // namespace switchyard
