// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/measure_test.cc -- the benchmark's tools on a CPU. No time is judged.
#include "switchyard/measure.h"

#include <gtest/gtest.h>

#include "testing/buffer.h"
#include "testing/linear_attention.h"

namespace switchyard::testing {
namespace {

MoeConfig small_config() {
  MoeConfig c;
  c.hidden = 64;
  c.intermediate = 32;
  c.num_experts = 4;
  c.top_k = 2;
  return c;
}

TEST(Measure, EveryOperationAndTheLayerLast) {
  const MoeConfig c = small_config();
  const auto backend = make_cpu_backend(1);
  LayerOptions options;
  options.max_tokens = 8;
  options.strategy = "contiguous";
  options.backend = backend;
  const auto layer = MoeLayer::create(c, random_device_weights(c, *backend, 1), options);
  const auto hidden = random_bf16({8, c.hidden}, 1);
  Buffer<Bf16> output({8, c.hidden});
  const auto times = measure_forward(*layer, {.output = output.view(), .hidden = hidden.view()},
                                     *backend, {.repeat = 3});
  ASSERT_GE(times.size(), 6u);
  EXPECT_EQ(times.front().op, "choose_experts");
  EXPECT_EQ(times.back().op, "layer");
  for (const auto& t : times) {
    EXPECT_LE(t.min_us, t.us) << t.op;
    EXPECT_LE(t.us, t.max_us) << t.op;
  }
  double gemm_flops = 0;
  for (const auto& t : times)
    if (t.op == "grouped_gemm1" || t.op == "grouped_gemm2") gemm_flops += t.flops;
  EXPECT_EQ(gemm_flops, 6.0 * 8 * 2 * 64 * 32);

  int num_operations = 0;
  observe_operations(*backend, [&](const OpEvent&) { ++num_operations; });
  layer->forward({.output = output.view(), .hidden = hidden.view()});
  layer->wait();
  observe_operations(*backend, {});
  EXPECT_EQ(times.back().num_operations, num_operations);
  EXPECT_EQ(times.front().num_operations, 0);  // of a layer alone
}

TEST(Measure, RefusesWhatItCannotMeasure) {
  const auto backend = make_cpu_backend(1);
  EXPECT_THROW(measure_device(*backend), Error);
  LayerOptions options;
  options.backend = backend;
  const auto layer =
      MoeLayer::create(small_config(), random_weights(small_config(), 1, 0, 1), options);
  EXPECT_THROW(measure_forward(*layer, {}, *backend, {.repeat = 0}), Error);
}

TEST(Measure, AFloorIsTheLargerLimit) {
  DeviceRates rates;
  rates.copy_gbps = 1000, rates.read_gbps = 2000, rates.gemm_tflops = 100;
  OpTime gemm;
  gemm.op = "grouped_gemm1";
  gemm.bytes = 1e9;
  EXPECT_DOUBLE_EQ(floor_us(gemm, rates), 1000);
  gemm.flops = 1e12;
  EXPECT_DOUBLE_EQ(floor_us(gemm, rates), 10000);
  gemm.f8_flops = 0.5e12;  // twice as fast, unless a rate is known
  EXPECT_DOUBLE_EQ(floor_us(gemm, rates), 7500);
  rates.f8_gemm_tflops = 125;
  EXPECT_DOUBLE_EQ(floor_us(gemm, rates), 9000);
  OpTime layer;
  layer.is_layer = true;
  layer.bytes = 1e9;
  EXPECT_DOUBLE_EQ(floor_us(layer, rates), 500);
}

// Sequences without a step and states that are refused move nothing.
TEST(MeasureOperation, CountsTheBytesThatAStepMoves) {
  const std::shared_ptr<Backend> backend = make_cpu_backend(1);
  const auto attention = LinearAttention::create(backend, 4);
  constexpr double kDim = 64;
  testing::ConvProblem conv;
  conv.paged.lengths = {20, 1, 0, 66};  // read and write, write, nothing, refused
  testing::ConvStep<Bf16, Bf16, testing::Buffer> conv_step(conv);
  const OpTime c = measure_operation(
      [&](CUstream_st*) { attention->conv_decode(conv_step.args()); }, *backend, {.repeat = 3});
  EXPECT_EQ(c.op, "conv_decode");
  EXPECT_GT(c.us, 0);
  EXPECT_EQ(c.bytes, 3 * 2 * kDim * 2 + 3 * kDim * 3 * 2 + kDim * (4 + 1) * 4);

  testing::DeltaProblem delta;
  delta.paged = conv.paged, delta.num_tokens = 2;
  testing::DeltaStep<Bf16, testing::Buffer> delta_step(delta);
  const OpTime d =
      measure_operation([&](CUstream_st*) { attention->delta_rule_decode(delta_step.args()); },
                        *backend, {.repeat = 3});
  EXPECT_EQ(d.op, "delta_rule_decode");
  constexpr double kState = 4 * 32 * 32 * 4;
  // q, k of 2 heads, v and output of 4, g, beta; L = 20: 1 + 2 states, L = 1: 2 states
  EXPECT_EQ(d.bytes, 3 * 2 * (2 * 2 * 32 * 2 + 2 * 4 * 32 * 2 + 4 * 4 + 4 * 2) + 5 * kState);
  attention->wait_status();
}

}  // namespace
}  // namespace switchyard::testing
