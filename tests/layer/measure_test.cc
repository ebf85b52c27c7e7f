// tests/layer/measure_test.cc -- the benchmark's tools on a CPU. No time is judged.
#include "switchyard/measure.h"

#include <gtest/gtest.h>

#include "testing/buffer.h"

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
  EXPECT_EQ(times.front().op, "router");
  EXPECT_EQ(times.back().op, "layer");
  for (const auto& t : times) {
    EXPECT_LE(t.min_us, t.us) << t.op;
    EXPECT_LE(t.us, t.max_us) << t.op;
  }
  double gemm_flops = 0;
  for (const auto& t : times)
    if (t.op == "grouped_gemm1" || t.op == "grouped_gemm2") gemm_flops += t.flops;
  EXPECT_EQ(gemm_flops, 6.0 * 8 * 2 * 64 * 32);
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
  OpTime layer;
  layer.op = "layer_given_routing";
  layer.bytes = 1e9;
  EXPECT_DOUBLE_EQ(floor_us(layer, rates), 500);
}

}  // namespace
}  // namespace switchyard::testing
