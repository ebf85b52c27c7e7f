// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/graph_test.cc -- a captured forward replays with whatever routing its buffers hold.
#include <gtest/gtest.h>

#include <cstdlib>

#include "testing/cuda_graph.h"
#include "testing/cuda_layer.h"

namespace switchyard::testing {
namespace {

struct Case {
  const char* strategy;
  int64_t tokens;
  int64_t masked_max_tokens;
  Layout layout;
};

std::ostream& operator<<(std::ostream& os, const Case& c) {
  return os << c.strategy << '_' << c.tokens;
}

class GraphReplay : public ::testing::TestWithParam<Case> {
 protected:
  // compute-sanitizer is a hundred times slower.
  const int num_replays_ = std::getenv("SWITCHYARD_SMALL") != nullptr ? 7 : 200;
};

Skew skew_of(int replay) {
  constexpr Skew kAll[] = {Skew::Balanced,      Skew::Zipf,        Skew::OneHot,  Skew::SameExperts,
                           Skew::FirstHalfOnly, Skew::SomeMissing, Skew::NoExpert};
  return kAll[static_cast<size_t>(replay) % std::size(kAll)];
}

TEST_P(GraphReplay, NewRoutingEqualsEagerBitForBit) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const Case& p = GetParam();
  const auto layer = cuda_layer(small_config(), p.strategy, p.tokens, p.masked_max_tokens);
  CudaCall call(small_config(), p.tokens);
  CudaBuffer<Bf16> eager(Shape{p.tokens, call.config.hidden});
  const Stream stream;
  const auto report = layer->forward(call.args_given_routing(stream.get(), eager.view()));
  EXPECT_EQ(report.layout, p.layout);
  layer->wait(stream.get());

  Graph graph(stream.get(),
              [&] { layer->forward(call.args_given_routing(stream.get(), call.output.view())); });
  for (int replay = 0; replay < num_replays_; ++replay) {
    call.route(skew_of(replay), 100 + static_cast<uint64_t>(replay));
    graph.launch(stream.get());
    layer->forward(call.args_given_routing(stream.get(), eager.view()));
    layer->wait(stream.get());
    ASSERT_TRUE(same_bits(call.output.host(), eager.host())) << "replay " << replay;
    ASSERT_TRUE(call.output.host().guards_intact());
  }
}

TEST_P(GraphReplay, TheGateIsCapturedToo) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const Case& p = GetParam();
  const auto layer = cuda_layer(small_config(), p.strategy, p.tokens, p.masked_max_tokens);
  CudaCall call(small_config(), p.tokens);
  CudaBuffer<Bf16> eager(Shape{p.tokens, call.config.hidden});
  const Stream stream;
  layer->forward(call.args(stream.get(), eager.view()));
  layer->wait(stream.get());

  Graph graph(stream.get(), [&] { layer->forward(call.args(stream.get(), call.output.view())); });
  for (int replay = 0; replay < num_replays_; ++replay) {
    call.fill_hidden(500 + static_cast<uint64_t>(replay));
    graph.launch(stream.get());
    layer->forward(call.args(stream.get(), eager.view()));
    layer->wait(stream.get());
    ASSERT_TRUE(same_bits(call.output.host(), eager.host())) << "replay " << replay;
  }
}

// One routing that no layer can serve: the replay says so, and the next is good again.
TEST_P(GraphReplay, BadIdsOfOneReplayAreReportedByWait) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const Case& p = GetParam();
  const auto layer = cuda_layer(small_config(), p.strategy, p.tokens, p.masked_max_tokens);
  CudaCall call(small_config(), p.tokens);
  const Stream stream;
  layer->forward(call.args_given_routing(stream.get(), call.output.view()));
  layer->wait(stream.get());
  const std::vector<Bf16> good = call.output.host().values();
  Graph graph(stream.get(),
              [&] { layer->forward(call.args_given_routing(stream.get(), call.output.view())); });

  const int32_t outside = 1000;
  copy_to_device(cuda_backend(), Tensor(call.ids.view().as<int32_t>(), {1}, DeviceKind::Cuda),
                 &outside);
  graph.launch(stream.get());
  EXPECT_THROW(layer->wait(stream.get()), Error);
  call.route(Skew::Balanced, 1);
  graph.launch(stream.get());
  EXPECT_NO_THROW(layer->wait(stream.get()));
  const std::vector<Bf16> again = call.output.host().values();
  EXPECT_EQ(std::memcmp(again.data(), good.data(), good.size() * sizeof(Bf16)), 0);
}

INSTANTIATE_TEST_SUITE_P(Strategies, GraphReplay,
                         ::testing::Values(Case{"contiguous", 1, 256, Layout::Contiguous},
                                           Case{"contiguous", 200, 256, Layout::Contiguous},
                                           Case{"masked", 1, 256, Layout::Masked},
                                           Case{"masked", 200, 256, Layout::Masked},
                                           Case{"hybrid", 64, 64, Layout::Masked},
                                           Case{"hybrid", 65, 64, Layout::Contiguous}),
                         [](const auto& info) {
                           return std::string(info.param.strategy) + "_" +
                                  std::to_string(info.param.tokens);
                         });

}  // namespace
}  // namespace switchyard::testing
