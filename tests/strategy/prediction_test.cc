// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/strategy/prediction_test.cc -- the cost model beside the times that a GPU was seen to take.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "strategy/cost_model.h"
#include "switchyard/strategy.h"

namespace switchyard {
namespace {

struct Card {
  const char* results;
  double read_gbps;  // as describe_device says of it
};

// The request that a measured layer was.
StrategyRequest request_of(const Card& card, const nlohmann::json& config,
                           const nlohmann::json& row) {
  StrategyRequest r;
  r.config.hidden = config.at("hidden");
  r.config.intermediate = config.at("intermediate");
  r.config.num_experts = config.at("experts");
  r.config.top_k = config.at("top_k");
  r.max_tokens = row.at("tokens");
  r.strategy = row.at("strategy");
  r.workspace_limit_bytes = int64_t{1} << 40;
  r.device.kind = DeviceKind::Cuda;
  r.device.available = true;
  r.device.compute_major = 9;
  r.device.num_devices = 1;
  r.device.num_sms = 132;
  r.device.memory_bytes = 80e9;
  r.device.read_gbps = card.read_gbps;
  r.device.gemm_gflops = 780e3;
  return r;
}

// Nothing is faster than the device: what is read, moved or multiplied takes its bytes or its
// products at the device's rates, or longer, and half as long at twice the rate.
TEST(Predictions, NothingIsFasterThanTheRatesOfTheDevice) {
  MoeConfig c;
  c.hidden = 2048, c.intermediate = 768, c.num_experts = 128, c.top_k = 8;
  const LocalWork work{.slots = 4096, .rows = 512, .active_experts = 100};
  DeviceDescription device;
  device.kind = DeviceKind::Cuda;
  device.read_gbps = 4000, device.gemm_gflops = 800e3;
  const double per_expert = 3.0 * 2048 * 768;
  const double moved = (2 * work.slots + 2 * work.rows) * 2048 * 2;
  for (const auto provider : {GemmProvider::Cpu, GemmProvider::Hopper, GemmProvider::Cublas}) {
    const LocalTime t = predict_local(work, c, provider, device);
    EXPECT_GE(t.flops_us, 2 * work.slots * per_expert / 800e6 * (1 - 1e-12));
    EXPECT_GE(t.weights_us, work.active_experts * per_expert * 2 / 4e6 * (1 - 1e-12));
    EXPECT_GE(t.rows_us, moved / 4e6 * (1 - 1e-12));
    DeviceDescription twice = device;
    twice.read_gbps = 8000, twice.gemm_gflops = 1600e3;
    const LocalTime half = predict_local(work, c, provider, twice);
    EXPECT_DOUBLE_EQ(2 * half.flops_us, t.flops_us);
    EXPECT_DOUBLE_EQ(2 * half.weights_us, t.weights_us);
    EXPECT_DOUBLE_EQ(2 * half.rows_us, t.rows_us);
  }
}

TEST(Predictions, WeightsOfAByteAreReadInHalfTheTime) {
  MoeConfig c;
  c.hidden = 2048, c.intermediate = 768, c.num_experts = 128, c.top_k = 8;
  LocalWork work{.slots = 64, .rows = 8, .active_experts = 50};
  DeviceDescription device;
  device.read_gbps = 4000, device.gemm_gflops = 800e3;
  for (const auto kind : {DeviceKind::Cpu, DeviceKind::Cuda}) {
    device.kind = kind;
    const auto provider = kind == DeviceKind::Cpu ? GemmProvider::Cpu : GemmProvider::Hopper;
    work.experts = DType::Bf16;
    const LocalTime bf16 = predict_local(work, c, provider, device);
    work.experts = DType::F8E4m3;
    const LocalTime f8 = predict_local(work, c, provider, device);
    EXPECT_DOUBLE_EQ(2 * f8.weights_us, bf16.weights_us);
    EXPECT_DOUBLE_EQ(f8.rows_us, bf16.rows_us);
    EXPECT_LE(f8.flops_us, bf16.flops_us);
    EXPECT_GT(f8.flops_us, bf16.flops_us / 2);
  }
}

TEST(Predictions, OfAGpuAreWithinAFifthOfWhatWasMeasured) {
  for (const Card& card : {Card{"h100.json", 3050}, Card{"h200.json", 4475}}) {
    std::ifstream file(std::string(SWITCHYARD_SOURCE_DIR "/bench/results/") + card.results);
    const auto results = nlohmann::json::parse(file);
    int good = 0, all = 0;
    for (const auto& [model, run] : results.at("bench").items())
      for (const auto& row : run.at("rows")) {
        if (row.at("op") != "layer_given_routing" || !run.contains("config")) continue;
        if (model.ends_with("-zipf")) continue;  // an even gate is assumed
        const double us = row.at("us");
        const auto request = request_of(card, run.at("config"), row);
        const double predicted = choose_strategy(request).predicted_us;
        ++all;
        if (std::abs(predicted / us - 1) <= 0.2)
          ++good;
        else
          std::printf("%s %s %s, %d tokens: %.0f us predicted, %.0f measured\n", card.results,
                      model.c_str(), row.at("strategy").get<std::string>().c_str(),
                      row.at("tokens").get<int>(), predicted, us);
      }
    EXPECT_GE(all, 49) << card.results;
    EXPECT_GE(good, 0.9 * all) << card.results << ": " << good << " of " << all;
  }
}

}  // namespace
}  // namespace switchyard
