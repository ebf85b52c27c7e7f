// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/fp8_layer_test.cc -- layers with experts in f8_e4m3 on the GPU: those of the CPU, and the
// same bits in every layout and batch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "switchyard/error.h"
#include "switchyard/layer.h"
#include "testing/cuda_layer.h"
#include "testing/f8_weights.h"
#include "testing/gpu_ranks.h"
#include "testing/peer_dispatch.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::CudaBuffer;

constexpr int64_t kWhole = ScaleBlock::kWhole;

MoeConfig f8_config() {
  MoeConfig c;
  c.hidden = 272, c.intermediate = 208, c.num_experts = 8, c.top_k = 3;
  return c;
}

struct F8Call {
  F8Call(const MoeConfig& c, int64_t num_tokens)
      : hidden(testing::random_bf16({num_tokens, c.hidden}, 5, 2.0f)),
        ids(testing::random_ids(num_tokens, c.num_experts, c.top_k, testing::Skew::Balanced, 5)),
        weights(testing::random_f32({num_tokens, c.top_k}, 5, 0.1f, 1.0f)) {}
  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;
  Buffer<float> weights;
};

std::unique_ptr<MoeLayer> layer_on(DeviceKind device, const MoeConfig& c, const LayerWeights& w,
                                   const std::string& strategy) {
  LayerOptions o;
  o.max_tokens = 400, o.masked_max_tokens = 400, o.strategy = strategy, o.device = device;
  if (device == DeviceKind::Cuda) o.backend = testing::shared_cuda_backend();
  return MoeLayer::create(
      c, device == DeviceKind::Cuda ? to_device(w, c, 1, testing::cuda_backend()) : w, o);
}

Buffer<Bf16> run_on_cpu(const MoeConfig& c, const LayerWeights& w, F8Call& call) {
  Buffer<Bf16> output(call.hidden.view().shape);
  const auto layer = layer_on(DeviceKind::Cpu, c, w, "local+contiguous");
  layer->forward({.output = output.view(),
                  .hidden = std::as_const(call.hidden).view(),
                  .ids = std::as_const(call.ids).view(),
                  .weights = std::as_const(call.weights).view()});
  layer->wait();
  return output;
}

Buffer<Bf16> run_on_gpu(MoeLayer& layer, const F8Call& call) {
  CudaBuffer<Bf16> hidden(call.hidden), output(call.hidden.view().shape);
  CudaBuffer<int32_t> ids(call.ids);
  CudaBuffer<float> weights(call.weights);
  for (int repeat = 0; repeat < 2; ++repeat)
    layer.forward({.output = output.view(),
                   .hidden = hidden.view(),
                   .ids = ids.view(),
                   .weights = weights.view()});
  layer.wait();
  Buffer<Bf16> host = output.host();
  EXPECT_TRUE(host.guards_intact());
  return host;
}

// Tensor cores cut products off, so that some codes between the GEMMs are the neighbours: a sixteenth
// of the number. Where one number is most of a row, so is what the row loses (2.3 % was seen).
void expect_close(const Buffer<Bf16>& actual, const Buffer<Bf16>& expected, int64_t width) {
  double all_error = 0, all_size = 0;
  for (int64_t row = 0; row < expected.count() / width; ++row) {
    double error = 0, size = 0;
    for (int64_t i = row * width; i < (row + 1) * width; ++i) {
      const double x = static_cast<float>(actual[i]), y = static_cast<float>(expected[i]);
      error += (x - y) * (x - y), size += y * y;
    }
    ASSERT_LE(std::sqrt(error), 6e-2 * std::sqrt(size)) << "row " << row;
    all_error += error, all_size += size;
  }
  ASSERT_GT(all_size, 0);
  EXPECT_LE(std::sqrt(all_error / all_size), 8e-3);
}

struct Blocks {
  const char* name;
  ScaleBlock w1, w2;
};

TEST(CudaFp8Layer, IsThatOfTheCpuForEveryKindOfScale) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const MoeConfig c = f8_config();
  for (const Blocks& b :
       {Blocks{"block", {8, 128}, {128, 128}}, Blocks{"channel", {1, kWhole}, {1, kWhole}},
        Blocks{"tensor", {208, kWhole}, {kWhole, kWhole}},
        Blocks{"wide", {416, 256}, {272, kWhole}}}) {
    SCOPED_TRACE(b.name);
    const LayerWeights w = testing::f8_weights(random_weights(c, 1, 0, 3), b.w1, b.w2);
    for (const int64_t tokens : {1, 33, 400}) {
      F8Call call(c, tokens);
      const auto layer = layer_on(DeviceKind::Cuda, c, w, "local+contiguous");
      expect_close(run_on_gpu(*layer, call), run_on_cpu(c, w, call), c.hidden);
    }
  }
}

TEST(CudaFp8Layer, BitsDependOnNeitherLayoutNorBatch) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const MoeConfig c = f8_config();
  const LayerWeights w = testing::f8_weights(random_weights(c, 1, 0, 3), {8, 128}, {128, 128});
  F8Call call(c, 400);
  const auto contiguous = layer_on(DeviceKind::Cuda, c, w, "local+contiguous");
  const auto masked = layer_on(DeviceKind::Cuda, c, w, "local+masked");
  const Buffer<Bf16> all = run_on_gpu(*contiguous, call);
  EXPECT_EQ(std::memcmp(run_on_gpu(*masked, call).data(), all.data(),
                        static_cast<size_t>(all.count()) * sizeof(Bf16)),
            0);
  for (const int64_t t : {0, 7, 399}) {
    F8Call one(c, 1);
    std::copy_n(call.hidden.data() + t * c.hidden, c.hidden, one.hidden.data());
    std::copy_n(call.ids.data() + t * c.top_k, c.top_k, one.ids.data());
    std::copy_n(call.weights.data() + t * c.top_k, c.top_k, one.weights.data());
    EXPECT_EQ(std::memcmp(run_on_gpu(*contiguous, one).data(), all.data() + t * c.hidden,
                          static_cast<size_t>(c.hidden) * sizeof(Bf16)),
              0)
        << "token " << t;
  }
}

// How rows travel.
struct Way {
  const char* name;
  bool fp8_rows, fetch_rows;
  DType rows;         // that the strategy says
  const char* words;  // of its carrier
  bool sums_at_source = false;
};
constexpr Way kWays[] = {{"bf16", false, true, DType::Bf16, "pushed"},
                         {"f8 pushed", true, false, DType::F8E4m3, "pushed"},
                         {"f8 fetched", true, true, DType::F8E4m3, "fetched"}};

// Every rank has the same tokens.
std::vector<Buffer<Bf16>> run_on_ranks(const MoeConfig& c, int ranks, const char* strategy,
                                       const Way& way, const F8Call& call) {
  std::vector<Buffer<Bf16>> outputs(static_cast<size_t>(ranks));
  testing::run_gpu_ranks({ranks, 1}, [&](testing::GpuRank& g) {
    LayerOptions o;
    o.max_tokens = 200, o.masked_max_tokens = 200 * ranks, o.strategy = strategy;
    o.device = DeviceKind::Cuda, o.backend = g.backend;
    o.fp8_rows = way.fp8_rows, o.fetch_rows = way.fetch_rows;
    o.sums_at_source = way.sums_at_source;
    const auto w = testing::f8_weights(random_weights(c, ranks, g.rank(), 3), {8, 128}, {128, 128});
    const auto layer = MoeLayer::create(c, to_device(w, c, ranks, *g.backend), g.comm, o);
    EXPECT_EQ(layer->strategy().rows, way.rows);
    const bool is_all_gather = std::string(strategy).starts_with("all_gather");
    const std::string& carrier = layer->strategy().carrier;
    EXPECT_TRUE(is_all_gather || carrier.find(way.words) != std::string::npos) << carrier;
    const testing::OnDevice hidden(*g.backend, call.hidden.view());
    const testing::OnDevice ids(*g.backend, call.ids.view());
    const testing::OnDevice weights(*g.backend, call.weights.view());
    const testing::OnDevice output(*g.backend, DType::Bf16, hidden.view().shape);
    const ForwardArgs args{.output = output.view(),
                           .hidden = hidden.view(),
                           .ids = ids.view(),
                           .weights = weights.view(),
                           .stream = g.stream};
    const auto result = [&] {
      layer->wait(g.stream);
      Buffer<Bf16> host(call.hidden.view().shape);
      copy_to_host(*g.backend, host.data(), output.view(), g.stream);
      return host;
    };
    g.everyone();
    for (int repeat = 0; repeat < 2; ++repeat) layer->forward(args);
    Buffer<Bf16> eager = result();
    g.everyone();
    {
      testing::Graph graph(g.stream, [&] { layer->forward(args); });
      g.everyone();
      const Buffer<Bf16> poison(eager.view().shape);
      copy_to_device(*g.backend, output.view(), poison.data(), g.stream);
      for (int repeat = 0; repeat < 2; ++repeat) graph.launch(g.stream);
      EXPECT_TRUE(testing::same_bits(result(), eager)) << "replayed";
      g.everyone();
    }
    outputs[static_cast<size_t>(g.rank())] = std::move(eager);
    g.everyone();
  });
  return outputs;
}

// Rows that travelled have the codes of those that did not, whatever they travelled as. A rank rounds
// what it sums of a token.
TEST(CudaFp8Layer, OfSeveralRanksIsThatOfOneRankOfTheCpuAndTheSameHoweverRowsTravel) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const MoeConfig c = f8_config();
  F8Call call(c, 200);
  const auto expected =
      run_on_cpu(c, testing::f8_weights(random_weights(c, 1, 0, 3), {8, 128}, {128, 128}), call);
  for (const int ranks : {2, 4})
    for (const char* strategy : {"normal+contiguous", "normal+masked", "all_gather+contiguous"}) {
      const auto first = run_on_ranks(c, ranks, strategy, kWays[0], call);
      expect_close(first[0], expected, c.hidden);
      for (const Way& way : kWays)
        for (const auto& output : run_on_ranks(c, ranks, strategy, way, call))
          EXPECT_EQ(std::memcmp(output.data(), first[0].data(),
                                static_cast<size_t>(output.count()) * sizeof(Bf16)),
                    0)
              << strategy << ", " << way.name << ", " << ranks << " ranks";
    }
}

// Rows of low latency are pushed whatever is asked. Eager and in graphs.
TEST(CudaFp8Layer, OverLowLatencyHasTheBitsOfNormalOrOfOneRankHoweverRowsTravel) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const MoeConfig c = f8_config();
  F8Call call(c, 200);
  const auto one =
      run_on_gpu(*layer_on(DeviceKind::Cuda, c,
                           testing::f8_weights(random_weights(c, 1, 0, 3), {8, 128}, {128, 128}),
                           "local+contiguous"),
                 call);
  for (const int ranks : {2, 4}) {
    const auto normal = run_on_ranks(c, ranks, "normal+contiguous", kWays[0], call);
    for (const char* strategy : {"low_latency+masked", "low_latency+contiguous"})
      for (const bool at_source : {false, true})
        for (const bool fp8_rows : {false, true}) {
          const Way way{"",       fp8_rows, true, fp8_rows ? DType::F8E4m3 : DType::Bf16,
                        "pushed", at_source};
          for (const auto& output : run_on_ranks(c, ranks, strategy, way, call))
            EXPECT_TRUE(testing::same_bits(output, at_source ? one : normal[0]))
                << strategy << ", " << ranks << " ranks" << (at_source ? ", at source" : "")
                << (fp8_rows ? ", rows in f8" : "");
        }
  }
}

// What a NaN, infinities, zeros, tiny and huge numbers of a token become, and slots without an expert.
TEST(CudaFp8Layer, OddRowsHaveTheSameBitsHoweverTheyTravel) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const MoeConfig c = f8_config();
  F8Call call(c, 60);
  testing::mark_odd_rows(call.hidden, c.hidden);
  for (int64_t i = 0; i < call.ids.count(); i += 5) call.ids[i] = -1;
  const auto expected = run_on_ranks(c, 2, "normal+contiguous", kWays[0], call);
  for (const Way& way : kWays) {
    const auto outputs = run_on_ranks(c, 2, "normal+contiguous", way, call);
    EXPECT_TRUE(std::isnan(static_cast<float>(outputs[0][0]))) << way.name;
    for (int64_t i = 0; i < outputs[0].count(); ++i) {
      const auto seen = static_cast<float>(outputs[0][i]),
                 need = static_cast<float>(expected[0][i]);
      ASSERT_TRUE(seen == need || (std::isnan(seen) && std::isnan(need)))
          << way.name << ", row " << i / c.hidden << ", column " << i % c.hidden;
    }
  }
}

TEST(CudaFp8Layer, RefusesRowsThatTheCopyEngineCannotTake) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  MoeConfig c = f8_config();
  c.intermediate = 200;
  const LayerWeights w = testing::f8_weights(random_weights(c, 1, 0, 3), {8, 128}, {128, 128});
  EXPECT_THROW(layer_on(DeviceKind::Cuda, c, w, "local+contiguous"), Error);
}

}  // namespace
}  // namespace switchyard
