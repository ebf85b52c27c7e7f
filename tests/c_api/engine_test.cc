// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/c_api/engine_test.cc -- what an engine hands over, through C: other layouts, ids and rows, memory and threads.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "c_api/c_layer.h"
#include "testing/engine_weights.h"
#include "testing/small_layer.h"

namespace switchyard {
namespace {

using namespace testing;

constexpr int64_t kTokens = 9, kHidden = 128;

MoeConfig with_biases() {
  MoeConfig c = small_layer();
  c.expert_bias = true;
  return c;
}

CWeights c_weights(const swy_weight_views& views) {
  return made<CWeights>(
      [&](swy_weights** out) { return swy_weights_create(&views, nullptr, nullptr, out); });
}

// What C++ computes from arranged weights.
Buffer<Bf16> expected(const MoeConfig& config, const LayerWeights& weights, SmallCall call) {
  const auto layer = MoeLayer::create(config, weights, small_options("auto"));
  layer->forward(call.with_ids());
  layer->wait();
  return call.output;
}

TEST(CEngine, WeightsOfEveryLayoutGiveTheSameBits) {
  const uint64_t seed = std::random_device{}();
  const auto weights = random_weights(with_biases(), 1, 0, seed);
  round_biases(weights);
  SmallCall call(kTokens, seed);
  const auto wanted = expected(with_biases(), weights, call);
  const CContext context = c_context();
  const swy_config config = c_config(with_biases());
  for (const EngineLayout& layout : kEngineLayouts) {
    const EngineWeights engine(weights, layout);
    const CWeights given = c_weights(c_views(engine.view));
    int64_t bytes = -1;
    good(swy_weights_arranged_bytes(given.get(), &bytes));
    EXPECT_EQ(bytes, arranged_bytes(engine.view.experts));
    const auto arranged = made<CWeights>([&](swy_weights** out) {
      return swy_weights_create_arranged(context.get(), &config, 1, given.get(), out);
    });
    swy_weight_views seen;
    SWY_INIT(weight_views, seen);
    good(swy_weights_view(arranged.get(), &seen));
    EXPECT_EQ(seen.transposed, 0);
    EXPECT_EQ(seen.order, SWY_GATE_UP);
    EXPECT_EQ(seen.b1.dtype, SWY_F32);
    for (const CWeights* with : {&given, &arranged}) {
      call.output = Buffer<Bf16>({kTokens, kHidden});
      const CLayer layer = c_layer(context.get(), with_biases(), with->get(), c_options(64));
      c_forward(layer.get(), call.with_ids());
      EXPECT_TRUE(same_bits(call.output, wanted));
    }
  }
}

TEST(CEngine, IdsOutsideTheLayerAreNoExpertWhereThatIsAsked) {
  const CContext context = c_context();
  const CWeights weights = c_random_weights(context.get(), small_layer(), 3);
  SmallCall call(kTokens, std::random_device{}()), padded = call;
  call.ids[5] = -1;
  padded.ids[5] = 16;  // E
  const auto wanted = expected(small_layer(), random_weights(small_layer(), 1, 0, 3), call);
  swy_options options = c_options(64);
  const swy_forward_args args = c_args(padded.with_ids());
  const CLayer strict = c_layer(context.get(), small_layer(), weights.get(), options);
  good(swy_layer_forward(strict.get(), &args, nullptr));
  EXPECT_EQ(swy_layer_wait(strict.get(), nullptr), SWY_BAD_ROUTING);
  options.out_of_range_ids = SWY_IDS_NO_EXPERT;
  const CLayer lenient = c_layer(context.get(), small_layer(), weights.get(), options);
  c_forward(lenient.get(), padded.with_ids());
  EXPECT_TRUE(same_bits(padded.output, wanted));
}

TEST(CEngine, AMapOfExpertsNamesThemAnew) {
  const CContext context = c_context();
  const CWeights weights = c_random_weights(context.get(), small_layer(), 3);
  SmallCall call(kTokens, std::random_device{}()), mapped = call;
  const auto wanted = expected(small_layer(), random_weights(small_layer(), 1, 0, 3), call);
  Buffer<int32_t> map({40});
  for (int32_t i = 0; i < 40; ++i) map[i] = i >= 10 && i < 26 ? 25 - i : -1;
  for (int64_t i = 0; i < mapped.ids.count(); ++i) mapped.ids[i] = 25 - mapped.ids[i];
  const CLayer layer = c_layer(context.get(), small_layer(), weights.get(), c_options(64));
  ForwardArgs args = mapped.with_ids();
  args.expert_map = std::as_const(map).view();
  c_forward(layer.get(), args);
  EXPECT_TRUE(same_bits(mapped.output, wanted));
}

TEST(CEngine, ARankMayHoldFewerExpertsThanATokenChooses) {
  const CContext context = c_context();
  MoeConfig few = small_layer();
  few.num_experts = 3, few.ids_are_given = true;
  const CWeights weights = c_random_weights(context.get(), few, 3);
  const CLayer layer = c_layer(context.get(), few, weights.get(), c_options(64));
  SmallCall call(kTokens, std::random_device{}()), local = call;
  const Buffer<int32_t> map = map_of_rank(16, 7, 3);
  for (int64_t i = 0; i < local.ids.count(); ++i) local.ids[i] = map[local.ids[i]];
  const auto wanted = expected(few, random_weights(few, 1, 0, 3), local);
  ForwardArgs args = call.with_ids();
  args.expert_map = map.view();
  c_forward(layer.get(), args);
  EXPECT_TRUE(same_bits(call.output, wanted));
  const swy_forward_args gated = c_args(call.with_gate());
  EXPECT_EQ(swy_layer_forward(layer.get(), &gated, nullptr), SWY_UNSUPPORTED);
}

TEST(CEngine, RowsMayHaveGaps) {
  constexpr int64_t kHiddenPitch = 136, kOutputPitch = 160;
  const CContext context = c_context();
  const CWeights weights = c_random_weights(context.get(), small_layer(), 3);
  SmallCall call(kTokens, std::random_device{}());
  const auto wanted = expected(small_layer(), random_weights(small_layer(), 1, 0, 3), call);
  Buffer<Bf16> hidden({kTokens, kHiddenPitch}), output({kTokens, kOutputPitch});
  for (int64_t t = 0; t < kTokens; ++t)
    std::copy_n(call.hidden.data() + t * kHidden, kHidden, hidden.data() + t * kHiddenPitch);
  std::fill_n(output.data(), output.count(), Bf16(7));
  swy_options options = c_options(64);
  options.strided_rows = 1;
  const CLayer layer = c_layer(context.get(), small_layer(), weights.get(), options);
  swy_forward_args args = c_args(call.with_ids());
  args.hidden.data = hidden.data();
  args.hidden.strides[0] = kHiddenPitch;
  args.output.data = output.data();
  args.output.strides[0] = kOutputPitch;
  args.hidden.strides[1] = args.output.strides[1] = 1;
  good(swy_layer_forward(layer.get(), &args, nullptr));
  good(swy_layer_wait(layer.get(), nullptr));
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t x = 0; x < kOutputPitch; ++x)
      EXPECT_EQ(static_cast<float>(output[t * kOutputPitch + x]),
                x < kHidden ? static_cast<float>(wanted[t * kHidden + x]) : 7.0f)
          << t << ", " << x;
}

TEST(CEngine, ALayerGrows) {
  const CContext context = c_context();
  const CWeights weights = c_random_weights(context.get(), small_layer(), 3);
  const CLayer layer = c_layer(context.get(), small_layer(), weights.get(), c_options(4));
  SmallCall call(kTokens, std::random_device{}());
  const auto wanted = expected(small_layer(), random_weights(small_layer(), 1, 0, 3), call);
  const swy_forward_args args = c_args(call.with_ids());
  EXPECT_EQ(swy_layer_forward(layer.get(), &args, nullptr), SWY_SHAPE_MISMATCH);
  good(swy_layer_grow(layer.get(), kTokens, nullptr));
  c_forward(layer.get(), call.with_ids());
  EXPECT_TRUE(same_bits(call.output, wanted));
}

TEST(CEngine, ALayerMayBeAFunction) {
  const CContext context = c_context();
  const swy_config config = c_config(small_layer());
  const CWeights weights = c_random_weights(context.get(), small_layer(), 3);
  const swy_options options = c_options(kTokens);
  SmallCall call(kTokens, std::random_device{}());
  const auto wanted = expected(small_layer(), random_weights(small_layer(), 1, 0, 3), call);
  swy_forward_args args = c_args(call.with_ids());
  const auto run = [&] {
    return swy_fused_experts(context.get(), &config, weights.get(), &options, &args, nullptr);
  };
  EXPECT_EQ(run(), SWY_SHAPE_MISMATCH) << "no workspace";
  const CWorkspace workspace(context.get(), config, options);
  args.workspace = workspace.lent;
  for (int again = 0; again < 2; ++again) {
    good(run());
    EXPECT_TRUE(same_bits(call.output, wanted));
  }
  call.ids[0] = 1000;
  EXPECT_EQ(run(), SWY_BAD_ROUTING);
  good(swy_fused_experts_wait(nullptr));
  good(swy_fused_experts_forget());
}

// ---- memory and threads of the program

struct Host {
  std::atomic<int> blocks = 0, runs = 0, released = 0;

  swy_allocator allocator() {
    return {[](void* user, size_t bytes) {
              ++static_cast<Host*>(user)->blocks;
              return std::aligned_alloc(128, (bytes + 127) / 128 * 128);
            },
            [](void* user, void* address, size_t) {
              --static_cast<Host*>(user)->blocks;
              std::free(address);
            },
            [](void* user) { ++static_cast<Host*>(user)->released; }, this};
  }
  swy_task_runner task_runner() {
    return {[](void* user, int64_t num_tasks, void (*task)(void*, int64_t), void* context) {
              ++static_cast<Host*>(user)->runs;
              std::jthread other([&] {
                for (int64_t i = 1; i < num_tasks; i += 2) task(context, i);
              });
              for (int64_t i = 0; i < num_tasks; i += 2) task(context, i);
            },
            [](void* user) { ++static_cast<Host*>(user)->released; }, this, 2, 0};
  }
};

TEST(CEngine, MemoryAndThreadsOfTheProgramServeUntilNothingNeedsThem) {
  Host host;
  const swy_allocator allocator = host.allocator();
  const swy_task_runner task_runner = host.task_runner();
  swy_context_options options;
  SWY_INIT(context_options, options);
  options.allocator = &allocator;
  options.task_runner = &task_runner;
  auto context = made<CContext>(
      [&](swy_context** out) { return swy_context_create(SWY_VERSION, &options, out); });
  CWeights weights = c_random_weights(context.get(), small_layer(), 3);
  CLayer layer = c_layer(context.get(), small_layer(), weights.get(), c_options(64));
  EXPECT_GT(host.blocks, 0);
  context.reset();
  SmallCall call(kTokens, std::random_device{}());
  const auto wanted = expected(small_layer(), random_weights(small_layer(), 1, 0, 3), call);
  c_forward(layer.get(), call.with_ids());
  EXPECT_TRUE(same_bits(call.output, wanted));
  EXPECT_GT(host.runs, 0);
  EXPECT_EQ(host.released, 0);
  layer.reset();
  weights.reset();
  EXPECT_EQ(host.released, 2);
  EXPECT_EQ(host.blocks, 0);
}

TEST(CEngine, WhatACallRefusesStaysTheCallers) {
  Host host;
  swy_allocator allocator = host.allocator();
  swy_task_runner task_runner = host.task_runner();
  swy_context_options options;
  SWY_INIT(context_options, options);
  options.allocator = &allocator;
  options.task_runner = &task_runner;
  swy_context* context = nullptr;
  const auto refused = [&](swy_status status, const char* text) {
    EXPECT_EQ(swy_context_create(SWY_VERSION, &options, &context), status);
    EXPECT_NE(std::string(swy_last_error()).find(text), std::string::npos) << swy_last_error();
    EXPECT_EQ(context, nullptr);
    EXPECT_EQ(host.released, 0);
  };
  options.num_threads = 3;
  refused(SWY_SHAPE_MISMATCH, "num_threads=3");
  options.num_threads = 0;
  allocator.free = nullptr;
  refused(SWY_INVALID_ARGUMENT, "allocator.free=NULL");
  allocator = host.allocator();
  task_runner.run = nullptr;
  refused(SWY_INVALID_ARGUMENT, "task_runner.run=NULL");
  task_runner = host.task_runner();
  task_runner.num_threads = 0;
  refused(SWY_SHAPE_MISMATCH, "num_threads=0");
  task_runner = host.task_runner();
  task_runner.reserved = 1;
  refused(SWY_UNSUPPORTED, "reserved=1");
  task_runner = host.task_runner();
  options.device = SWY_CUDA;
  EXPECT_NE(swy_context_create(SWY_VERSION, &options, &context), SWY_OK);
  EXPECT_EQ(host.released, 0);
}

}  // namespace
}  // namespace switchyard
