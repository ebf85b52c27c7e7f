// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/layer_weights_test.cc -- random weights, their rules, and presets.
#include "switchyard/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "switchyard/checkpoint.h"
#include "switchyard/error.h"

namespace switchyard {
namespace {

MoeConfig config_with_everything() {
  MoeConfig c;
  c.hidden = 64;
  c.intermediate = 32;
  c.num_experts = 8;
  c.top_k = 2;
  c.gate = {.scoring = Scoring::Sigmoid, .correction_bias = true};
  c.shared = {.intermediate = 16, .sigmoid_gated = true};
  c.expert_bias = true;
  c.router_bias = true;
  return c;
}

TEST(RandomWeights, DependOnSeedAndGlobalExpertOnly) {
  const auto c = config_with_everything();
  const auto all = random_weights(c, 1, 0, 7);
  for (int rank = 0; rank < 4; ++rank) {
    const auto part = random_weights(c, 4, rank, 7);
    const auto same = [&](ConstTensor a, ConstTensor b) {
      return std::memcmp(a.data, b.rows(rank * 2, 2).data, static_cast<size_t>(a.bytes())) == 0;
    };
    EXPECT_TRUE(same(part.experts.w1, all.experts.w1));
    EXPECT_TRUE(same(part.experts.w2, all.experts.w2));
    EXPECT_TRUE(same(part.experts.b1, all.experts.b1));
    EXPECT_TRUE(same(part.experts.b2, all.experts.b2));
  }
  const auto other = random_weights(c, 1, 0, 8);
  EXPECT_NE(std::memcmp(other.experts.w1.data, all.experts.w1.data, 1024), 0);
}

TEST(RandomWeights, KeepTheSizeOfWhatTheyMultiply) {
  const auto w = random_weights(config_with_everything(), 1, 0, 7);
  double sum = 0;
  for (int64_t i = 0; i < w.experts.w1.count(); ++i)
    sum += std::pow(static_cast<float>(w.experts.w1.as<Bf16>()[i]), 2);
  // Variance 1/H; the sample of 32768 values has it within 1 percent or so.
  EXPECT_NEAR(sum / static_cast<double>(w.experts.w1.count()) * 64, 1.0, 0.05);
}

TEST(RandomWeights, InF8KeepThatSizeAndDependOnTheGlobalExpertOnly) {
  MoeConfig c = config_with_everything();
  c.hidden = 256, c.intermediate = 192;
  const ExpertFormat format = fp8_blocks(c);
  EXPECT_EQ(format, (ExpertFormat{DType::F8E4m3, {64, 128}, {128, 128}}));
  const auto all = random_weights(c, 1, 0, 7, format), part = random_weights(c, 4, 3, 7, format);
  validate(all, c, 1);
  const auto same = [&](ConstTensor a, ConstTensor b) {
    return std::memcmp(a.data, b.rows(3 * 2, 2).data, static_cast<size_t>(a.bytes())) == 0;
  };
  EXPECT_TRUE(same(part.experts.w1, all.experts.w1));
  EXPECT_TRUE(same(part.experts.w2, all.experts.w2));
  EXPECT_TRUE(same(part.experts.w1_scales.values, all.experts.w1_scales.values));
  EXPECT_TRUE(same(part.experts.w2_scales.values, all.experts.w2_scales.values));
  const ConstTensor scales = all.experts.w1_scales.values;
  double sum = 0, largest = 0, least = 1;
  for (int64_t i = 0; i < all.experts.w1.count(); ++i) {
    const int64_t row = i / c.hidden, block = row / 64 * 2 + i % c.hidden / 128;
    const double scale = scales.as<float>()[block];
    sum += std::pow(static_cast<float>(all.experts.w1.as<F8E4m3>()[i]) * scale, 2);
    largest = std::max(largest, scale), least = std::min(least, scale);
  }
  // Scales within half of their middle have 13/12 of its square.
  EXPECT_NEAR(sum / static_cast<double>(all.experts.w1.count()) * 256, 13.0 / 12, 0.15);
  EXPECT_GT(largest, 2 * least);
}

bool same_bytes(ConstTensor a, ConstTensor b) {
  return a.present() == b.present() && a.shape == b.shape && a.dtype == b.dtype &&
         (a.bytes() == 0 || std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0);
}

TEST(ToDevice, CopiesEveryTensorAndOwnsTheCopy) {
  const auto c = config_with_everything();
  auto host = random_weights(c, 2, 1, 7);
  host.experts.order = GateUpOrder::UpGate;
  const auto backend = make_cpu_backend(1);
  int64_t last = 0, total = 0;
  const auto copy = to_device(host, c, 2, *backend, [&](int64_t done, int64_t all) {
    EXPECT_GT(done, last);
    last = done;
    total = all;
  });
  EXPECT_EQ(last, total);
  EXPECT_NE(copy.experts.w1.data, host.experts.w1.data);
  EXPECT_TRUE(copy.owner);
  EXPECT_EQ(copy.experts.order, GateUpOrder::UpGate);
  EXPECT_EQ(copy.shared.order, GateUpOrder::GateUp);
  EXPECT_TRUE(same_bytes(copy.experts.w1, host.experts.w1));
  EXPECT_TRUE(same_bytes(copy.experts.w2, host.experts.w2));
  EXPECT_TRUE(same_bytes(copy.experts.b1, host.experts.b1));
  EXPECT_TRUE(same_bytes(copy.experts.b2, host.experts.b2));
  EXPECT_TRUE(same_bytes(copy.router.weight, host.router.weight));
  EXPECT_TRUE(same_bytes(copy.router.bias, host.router.bias));
  EXPECT_TRUE(same_bytes(copy.router.correction_bias, host.router.correction_bias));
  EXPECT_TRUE(same_bytes(copy.shared.w1, host.shared.w1));
  EXPECT_TRUE(same_bytes(copy.shared.w2, host.shared.w2));
  EXPECT_TRUE(same_bytes(copy.shared.gate, host.shared.gate));
  EXPECT_NO_THROW(validate(copy, c, 2));
}

TEST(ToDevice, LeavesOutARouterThatTheHostHasNot) {
  const auto c = config_with_everything();
  auto host = random_weights(c, 1, 0, 7);
  host.router = {};
  EXPECT_FALSE(to_device(host, c, 1, *make_cpu_backend(1)).router.weight.present());
  EXPECT_FALSE(to_device(host, c, 1, *make_cpu_backend(1)).router.bias.present());
}

TEST(Validate, RefusesWeightsOfAnotherDeviceAndSaysHowToMoveThem) {
  const auto c = config_with_everything();
  auto w = random_weights(c, 1, 0, 7);
  try {
    validate(w, c, 1, DeviceKind::Cuda);
    FAIL() << "weights of the host on cuda";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::ShapeMismatch);
    EXPECT_STREQ(e.what(), "weights: w1 is on cpu, need cuda. Copy them with to_device.");
  }
  w.shared.gate.device = DeviceKind::Cuda;
  EXPECT_THROW(validate(w, c, 1), Error);
}

struct Mistake {
  const char* message;
  Errc code;
  std::function<void(LayerWeights&)> make;
};

const Mistake kMistakes[] = {
    {"w1 order is unset", Errc::ShapeMismatch,
     [](auto& w) { w.experts.order = GateUpOrder::Unset; }},
    {"w1 is missing", Errc::ShapeMismatch, [](auto& w) { w.experts.w1 = {}; }},
    {"w1 is bf16 [8, 64, 32]", Errc::ShapeMismatch,
     [](auto& w) {
       w.experts.w1.shape = {8, 64, 32};
     }},
    {"w2 is f16", Errc::ShapeMismatch, [](auto& w) { w.experts.w2.dtype = DType::F16; }},
    {"w2 is null", Errc::ShapeMismatch, [](auto& w) { w.experts.w2.data = nullptr; }},
    {"w2 address", Errc::Misaligned,
     [](auto& w) { w.experts.w2.data = w.experts.w2.template as<Bf16>() + 1; }},
    {"b1 is missing", Errc::ShapeMismatch, [](auto& w) { w.experts.b1 = {}; }},
    {"router bias is missing", Errc::ShapeMismatch, [](auto& w) { w.router.bias = {}; }},
    {"correction bias is missing", Errc::ShapeMismatch,
     [](auto& w) { w.router.correction_bias = {}; }},
    {"shared w1 is missing", Errc::ShapeMismatch, [](auto& w) { w.shared.w1 = {}; }},
    {"shared gate is missing", Errc::ShapeMismatch, [](auto& w) { w.shared.gate = {}; }},
    {"shared w1 order is unset", Errc::ShapeMismatch,
     [](auto& w) { w.shared.order = GateUpOrder::Unset; }},
};

TEST(Validate, EachWrongTensorIsNamed) {
  const auto c = config_with_everything();
  const auto good = random_weights(c, 1, 0, 1);
  EXPECT_NO_THROW(validate(good, c, 1));
  for (const auto& mistake : kMistakes) {
    auto w = good;
    mistake.make(w);
    try {
      validate(w, c, 1);
      ADD_FAILURE() << mistake.message;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(mistake.message), std::string::npos) << e.what();
      EXPECT_EQ(e.code(), mistake.code) << e.what();
    }
  }
}

TEST(Validate, RefusesTensorsThatTheConfigDoesNotHave) {
  auto c = config_with_everything();
  const auto w = random_weights(c, 1, 0, 1);
  c.expert_bias = false;
  try {
    validate(w, c, 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("b1 is given, the config has none"), std::string::npos);
  }
}

TEST(Presets, AreKnownModelsWithValidShapes) {
  const char* names[] = {"qwen3-30b-a3b",     "qwen3-235b-a22b", "qwen3-next-80b-a3b",
                         "mixtral-8x7b",      "olmoe-1b-7b",     "glm-4.5-air",
                         "deepseek-v3",       "kimi-k2",         "gpt-oss-120b",
                         "llama-4-scout",     "qwen3.5-35b-a3b", "minimax-m2",
                         "minimax-m3",        "glm-5",           "mimo-v2-flash",
                         "deepseek-v4-flash", "nemotron-3-nano", "longcat-flash"};
  EXPECT_EQ(presets().size(), std::size(names));
  for (const char* name : names) {
    const auto& preset = find_preset(name);
    EXPECT_EQ(preset.name, name);
    EXPECT_NO_THROW(validate(preset.config)) << name;
  }
  EXPECT_THROW(find_preset("gpt-5"), Error);
}

TEST(WeightBytes, CountWhatIsAllocated) {
  const auto c = config_with_everything();
  const auto w = random_weights(c, 2, 0, 1);
  const auto bytes = w.experts.w1.bytes() + w.experts.w2.bytes() + w.experts.b1.bytes() +
                     w.experts.b2.bytes() + w.router.weight.bytes() + w.router.bias.bytes() +
                     w.router.correction_bias.bytes() + w.shared.w1.bytes() + w.shared.w2.bytes() +
                     w.shared.gate.bytes();
  EXPECT_GE(weight_bytes(c, 2), bytes);
  EXPECT_LE(weight_bytes(c, 2), bytes + 16 * 128);  // and the alignment of each tensor
}

}  // namespace
}  // namespace switchyard
