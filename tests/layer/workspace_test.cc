// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/workspace_test.cc -- where a layer's workspace comes from, and that nothing in it lives
// from call to call: layers of a model share one, and each keeps its own errors.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <thread>

#include "switchyard/layer.h"
#include "testing/error_of.h"
#include "testing/layer_features.h"
#include "testing/routing.h"
#include "testing/small_layer.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::error_of;

MoeConfig config() {
  return testing::small_layer();
}
LayerOptions options(const std::string& strategy = "contiguous") {
  return testing::small_options(strategy);
}

struct Call : testing::SmallCall {
  explicit Call(uint64_t seed) : SmallCall(33, seed) {}
};

int64_t num_threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

TEST(Workspace, OfAWholeModelIsThatOfOneLayerOnOneBackend) {
  constexpr int kLayers = 61;
  std::thread([] {}).join();  // with the first, the thread sanitizer starts one of its own
  const int64_t threads_before = num_threads();
  auto o = options();
  o.backend = make_cpu_backend(4);
  o.shared_workspace = std::make_shared<SharedWorkspace>(o.backend);
  std::vector<std::unique_ptr<MoeLayer>> layers, alone;
  for (int i = 0; i < kLayers; ++i)
    layers.push_back(MoeLayer::create(config(), random_weights(config(), 1, 0, 100 + i), o));
  EXPECT_EQ(num_threads() - threads_before, 3) << "and the caller's";
  EXPECT_EQ(o.shared_workspace->bytes(), layers.front()->workspace_bytes());
  o.shared_workspace = nullptr;
  Call shared(1), own(1);
  for (int i = 0; i < kLayers; ++i) {
    EXPECT_LE(layers[static_cast<size_t>(i)]->state_bytes(), 1024u);
    layers[static_cast<size_t>(i)]->forward(shared.with_gate());
    const auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 100 + i), o);
    layer->forward(own.with_gate());
    ASSERT_TRUE(testing::same_bits(shared.output, own.output)) << "layer " << i;
    std::swap(shared.hidden, shared.output);
    std::swap(own.hidden, own.output);
  }
}

TEST(Workspace, AnErrorBelongsToTheLayerThatCausedIt) {
  auto o = options();
  o.backend = make_cpu_backend(2);
  o.shared_workspace = std::make_shared<SharedWorkspace>(o.backend);
  const auto weights = random_weights(config(), 1, 0, 3);
  const auto before = MoeLayer::create(config(), weights, o);
  const auto faulty = MoeLayer::create(config(), weights, o);
  const auto after = MoeLayer::create(config(), weights, o);
  Call first(1), bad(2), last(1);
  bad.ids[5] = static_cast<int32_t>(config().num_experts);
  before->forward(first.with_ids());
  faulty->forward(bad.with_ids());
  after->forward(last.with_ids());
  EXPECT_NO_THROW(before->wait());
  EXPECT_NO_THROW(after->wait());
  EXPECT_TRUE(testing::same_bits(first.output, last.output));
  EXPECT_EQ(error_of([&] { faulty->wait(); }).code(), Errc::BadRouting);
  EXPECT_TRUE(std::isnan(static_cast<float>(bad.output[0])));
}

TEST(Workspace, NothingInItLivesFromCallToCall) {
  auto features = testing::layer_features();
  for (const auto& feature : features)
    for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
      const MoeConfig& c = feature.config;
      const auto weights = random_weights(c, 1, 0, 3);
      auto o = options(strategy);
      const auto plain = MoeLayer::create(c, weights, o);
      o.poison_workspace = true;
      const auto poisoned = MoeLayer::create(c, weights, o);
      const auto hidden = testing::random_bf16({20, c.hidden}, 1);
      const auto ids = testing::token_ids_for(c, 20, 2);
      Buffer<Bf16> expected({20, c.hidden}), output({20, c.hidden});
      ForwardArgs args{.output = expected.view(),
                       .hidden = hidden.view(),
                       .token_ids = c.gate.vocabulary > 0 ? ids.view() : ConstTensor()};
      plain->forward(args);
      args.output = output.view();
      for (int call = 0; call < 2; ++call) poisoned->forward(args);
      poisoned->wait();
      EXPECT_TRUE(testing::same_bits(output, expected)) << feature.name << ", " << strategy;
    }
}

TEST(Workspace, NothingInItLivesFromCallToCallOfRanks) {
  for (const char* strategy : {"normal+contiguous", "all_gather+masked", "local+contiguous"}) {
    std::atomic<int> good = 0;
    run_local_ranks(3, [&](Communicator& comm) {
      auto c = config();
      c.num_experts = 15;
      auto o = options(strategy);
      if (o.strategy.starts_with("local")) o.tp_size = 3;
      const auto weights = random_weights(c, 3, comm.rank(), 3);
      const auto plain = MoeLayer::create(c, weights, comm, o);
      o.poison_workspace = true;
      const auto poisoned = MoeLayer::create(c, weights, comm, o);
      Call a(1), b(1);
      plain->forward(a.with_gate());
      for (int call = 0; call < 2; ++call) poisoned->forward(b.with_gate());
      plain->wait();
      poisoned->wait();
      good += testing::same_bits(a.output, b.output);
    });
    EXPECT_EQ(good, 3) << strategy;
  }
}

TEST(Workspace, GrowsAndWhatWasGivenStays) {
  auto o = options();
  o.backend = make_cpu_backend(2);
  o.shared_workspace = std::make_shared<SharedWorkspace>(o.backend, 1000);
  EXPECT_EQ(o.shared_workspace->bytes(), 1000u);
  const auto weights = random_weights(config(), 1, 0, 3);
  const auto small = MoeLayer::create(config(), weights, o);
  const size_t small_bytes = o.shared_workspace->bytes();
  o.max_tokens = 500;
  const auto large = MoeLayer::create(config(), weights, o);
  EXPECT_GT(o.shared_workspace->bytes(), small_bytes);
  EXPECT_EQ(o.shared_workspace->bytes(), large->workspace_bytes());
  o.shared_workspace = nullptr;  // the layers keep it
  Call a(1), b(1);
  small->forward(a.with_ids());
  large->forward(b.with_ids());
  EXPECT_TRUE(testing::same_bits(a.output, b.output));
}

TEST(Workspace, MayComeWithEveryCall) {
  const auto weights = random_weights(config(), 1, 0, 3);
  auto o = options();
  const auto own = MoeLayer::create(config(), weights, o);
  o.workspace_per_call = true;
  const auto layer = MoeLayer::create(config(), weights, o);
  Call expected(1), call(1);
  own->forward(expected.with_gate());

  const size_t bytes = layer->workspace_bytes();
  const auto backend = make_cpu_backend(1);
  const std::array<std::shared_ptr<void>, 2> lent{
      allocate(*backend, bytes), allocate(*backend, bytes + Workspace::kAlignment)};
  auto args = call.with_gate();
  EXPECT_EQ(std::string(error_of([&] { layer->forward(args); }).what()).find("forward: workspace"),
            0u);
  args.workspace = {lent[0].get(), bytes};
  layer->forward(args);
  for (const size_t which : {1, 0, 1}) {
    std::fill(call.output.data(), call.output.data() + call.output.count(), Bf16(0.0f));
    args.workspace = {lent[which].get(), bytes};
    layer->forward(args);
    layer->wait();
    EXPECT_TRUE(testing::same_bits(call.output, expected.output));
  }

  args.workspace.bytes -= 1;
  EXPECT_EQ(error_of([&] { layer->forward(args); }).code(), Errc::ShapeMismatch);
  args.workspace = {static_cast<std::byte*>(lent[1].get()) + 16, bytes};
  EXPECT_EQ(error_of([&] { layer->forward(args); }).code(), Errc::Misaligned);
  args = expected.with_gate();
  args.workspace = {lent[0].get(), bytes};
  EXPECT_NO_THROW(own->forward(args)) << "also of a layer that has one";
}

TEST(Backends, ServeOneThreadAtATime) {
  auto o = options();
  o.backend = make_cpu_backend(2);
  const auto weights = random_weights(config(), 1, 0, 3);
  const auto first = MoeLayer::create(config(), weights, o);
  const auto second = MoeLayer::create(config(), weights, o);
  Call a(1), b(1), alone(1);
  std::atomic<int> refused = 0;
  observe_operations(*o.backend, [&](const OpEvent&) {  // while the first is in forward
    if (refused > 0) return;
    std::thread([&] {
      const Error e = error_of([&] { second->forward(b.with_gate()); });
      EXPECT_EQ(e.code(), Errc::Unsupported);
      EXPECT_EQ(std::string(e.what()).find("forward: backend="), 0u) << e.what();
      ++refused;
    }).join();
  });
  first->forward(a.with_gate());
  observe_operations(*o.backend, {});
  EXPECT_EQ(refused, 1);
  second->forward(alone.with_gate());
  second->wait();
  EXPECT_TRUE(testing::same_bits(a.output, alone.output));
}

TEST(Workspace, ComesFromOnePlace) {
  auto o = options();
  o.backend = make_cpu_backend(2);
  o.shared_workspace = std::make_shared<SharedWorkspace>(o.backend);
  o.workspace_per_call = true;
  const auto make = [&] { MoeLayer::create(config(), random_weights(config(), 1, 0, 3), o); };
  EXPECT_EQ(error_of(make).code(), Errc::ShapeMismatch);
  run_local_ranks(2, [](Communicator& comm) {
    auto mine = options("normal+contiguous");
    mine.workspace_per_call = true;
    EXPECT_EQ(error_of([&] {
                MoeLayer::create(config(), random_weights(config(), 2, comm.rank(), 3), comm, mine);
              }).code(),
              Errc::Unsupported);
  });
}

}  // namespace
}  // namespace switchyard
