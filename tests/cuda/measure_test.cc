// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/measure_test.cc -- the benchmark's tools do what their numbers claim. No time is
// judged.
#include "switchyard/measure.h"

#include <gtest/gtest.h>

#include <map>

#include "testing/cuda_layer.h"

namespace switchyard::testing {
namespace {

template <class T>
std::vector<T> to_host(ConstTensor t) {
  std::vector<T> values(static_cast<size_t>(t.count()));
  copy_to_host(cuda_backend(), values.data(), t);
  return values;
}

template <class T>
void expect_equal(const char* name, ConstTensor device, ConstTensor host) {
  ASSERT_EQ(device.shape, host.shape) << name;
  if (!host.present()) return;
  const auto values = to_host<T>(device);
  EXPECT_EQ(std::memcmp(values.data(), host.data, static_cast<size_t>(host.bytes())), 0) << name;
}

TEST(Measure, RandomDeviceWeightsAreThoseOfTheHost) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  MoeConfig c = small_config();
  c.expert_bias = c.router_bias = c.gate.correction_bias = true;
  c.gate.scoring = Scoring::Sigmoid;
  const LayerWeights host = random_weights(c, 1, 0, 5);
  const LayerWeights device = random_device_weights(c, cuda_backend(), 5);
  expect_equal<Bf16>("w1", device.experts.w1, host.experts.w1);
  expect_equal<Bf16>("w2", device.experts.w2, host.experts.w2);
  expect_equal<float>("b1", device.experts.b1, host.experts.b1);
  expect_equal<float>("b2", device.experts.b2, host.experts.b2);
  expect_equal<Bf16>("router", device.router.weight, host.router.weight);
  expect_equal<float>("router bias", device.router.bias, host.router.bias);
  expect_equal<float>("correction bias", device.router.correction_bias,
                      host.router.correction_bias);
  expect_equal<Bf16>("shared w1", device.shared.w1, host.shared.w1);
  expect_equal<Bf16>("shared w2", device.shared.w2, host.shared.w2);
  expect_equal<Bf16>("shared gate", device.shared.gate, host.shared.gate);
}

TEST(Measure, RandomDeviceWeightsInF8AreThoseOfTheHost) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  MoeConfig c = small_config();
  const ExpertFormat format = fp8_blocks(c);
  for (const int rank : {0, 1}) {
    const LayerWeights host = random_weights(c, 2, rank, 5, format);
    const LayerWeights device = random_device_weights(c, cuda_backend(), 5, 2, rank, format);
    EXPECT_EQ(format_of(device.experts), format);
    expect_equal<F8E4m3>("w1", device.experts.w1, host.experts.w1);
    expect_equal<F8E4m3>("w2", device.experts.w2, host.experts.w2);
    expect_equal<float>("w1 scales", device.experts.w1_scales.values,
                        host.experts.w1_scales.values);
    expect_equal<float>("w2 scales", device.experts.w2_scales.values,
                        host.experts.w2_scales.values);
    expect_equal<Bf16>("router", device.router.weight, host.router.weight);
  }
}

TEST(Measure, RatesArePlausible) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const DeviceRates rates = measure_device(cuda_backend());
  EXPECT_FALSE(rates.name.empty());
  EXPECT_FALSE(rates.driver.empty());
  EXPECT_GT(rates.copy_gbps, 50);
  EXPECT_LT(rates.copy_gbps, 20e3);
  EXPECT_GT(rates.read_gbps, 50);
  EXPECT_LT(rates.read_gbps, 20e3);
  EXPECT_GT(rates.gemm_tflops, 10);
  const bool multiplies_f8 = describe_device(DeviceKind::Cuda).compute_major >= 9;
  EXPECT_GE(rates.f8_gemm_tflops, multiplies_f8 ? 1.2 * rates.gemm_tflops : 0);
  EXPECT_LT(rates.gemm_tflops, 5000);
  EXPECT_GT(rates.sm_clock_mhz, 100);
  EXPECT_LT(rates.sm_clock_mhz, 4000);
}

TEST(Measure, WorkOfAForwardIsCountedByItsRouting) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  MoeConfig c = small_config();
  c.shared = {};
  constexpr int64_t kTokens = 48;
  const auto layer = cuda_layer(c, "contiguous", kTokens, 64);
  CudaCall call(c, kTokens);
  call.route(Skew::SameExperts, 1);  // K experts, all tokens each
  const auto times = measure_forward(*layer, call.args_given_routing(nullptr, call.output.view()),
                                     cuda_backend(), {.repeat = 3});
  std::map<std::string, OpTime> by_name;
  for (const auto& t : times) {
    by_name[t.op] = t;
    EXPECT_GT(t.us, 0) << t.op;
    EXPECT_LE(t.min_us, t.us) << t.op;
    EXPECT_GE(t.max_us, t.us) << t.op;
  }
  ASSERT_EQ(times.back().op, "layer_given_routing");
  const auto h = static_cast<double>(c.hidden), i = static_cast<double>(c.intermediate),
             k = static_cast<double>(c.top_k), t = static_cast<double>(kTokens);
  EXPECT_EQ(by_name["grouped_gemm1"].flops, 4 * t * k * h * i);
  EXPECT_EQ(by_name["grouped_gemm1"].bytes, 2 * (k * 2 * i * h + t * k * h + t * k * i));
  EXPECT_EQ(by_name["grouped_gemm2"].flops, 2 * t * k * h * i);
  EXPECT_EQ(by_name["scatter_rows"].bytes, 2 * h * (t + t * k));
  EXPECT_EQ(by_name["gather_rows"].bytes, 2 * h * (t + t * k));
  EXPECT_EQ(by_name["plan_rows"].bytes, 8 * t * k);
  EXPECT_EQ(times.back().flops, 6 * t * k * h * i);
  EXPECT_GE(times.back().num_operations, static_cast<int>(times.size()) - 1);
  EXPECT_EQ(times.back().bytes, 2 * (k * 3 * i * h + 2 * t * h));
}

TEST(Measure, OperationsOfOnePartWithoutTheLayer) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  MoeConfig c = small_config();
  c.shared = {};
  const auto layer = cuda_layer(c, "contiguous", 200, 64);
  CudaCall call(c, 200);
  std::vector<std::string> ops;
  for (const auto& t :
       measure_forward(*layer, call.args(nullptr, call.output.view()), cuda_backend(),
                       {.repeat = 1, .only = Phase::Experts, .whole = false})) {
    EXPECT_GT(t.us, 0) << t.op;
    ops.push_back(t.op);
  }
  EXPECT_EQ(ops, (std::vector<std::string>{"plan_rows", "scatter_rows", "grouped_gemm1",
                                           "grouped_gemm2"}));
}

// What is timed alone, call after call, still leaves the forward's result.
TEST(Measure, LeavesTheOutputOfAForward) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const char* strategy : {"contiguous", "masked"}) {
    MoeConfig c = small_config();
    c.shared = {};
    const auto layer = cuda_layer(c, strategy, 100, 64);
    CudaCall call(c, 100);
    CudaBuffer<Bf16> eager(Shape{100, c.hidden});
    layer->forward(call.args_given_routing(nullptr, eager.view()));
    layer->wait();
    measure_forward(*layer, call.args_given_routing(nullptr, call.output.view()), cuda_backend(),
                    {.repeat = 2});
    EXPECT_TRUE(same_bits(call.output.host(), eager.host())) << strategy;
  }
}

}  // namespace
}  // namespace switchyard::testing
