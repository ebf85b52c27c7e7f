// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/fp8_checkpoints_test.cc -- checkpoints in fp8 as they are published, by blocks, channels
// and tensors, run from file as they are stored, on one rank and on several: against the families'
// definitions in float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/family_definitions.h"
#include "testing/routing.h"
#include "testing/small_layer.h"
#include "testing/temporary_folder.h"

namespace switchyard::testing {
namespace {

constexpr int64_t kWhole = ScaleBlock::kWhole;

struct Method {
  const char* name;
  ScaleBlock block;
  json config;
  const char* suffix;  // of the names of scales
  Shape scales;        // of each matrix, where they are no table of blocks
};

json float8(const char* strategy) {
  const json weights = {
      {"num_bits", 8}, {"type", "float"}, {"strategy", strategy}, {"symmetric", true}};
  return {{"quant_method", "compressed-tensors"},
          {"format", "float-quantized"},
          {"config_groups", {{"group_0", {{"weights", weights}}}}}};
}

std::vector<Method> methods() {
  return {{"block",
           {128, 128},
           {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}},
           "_scale_inv",
           {}},
          {"channel", {1, kWhole}, float8("channel"), "_scale", {}},
          {"tensor", {kWhole, kWhole}, float8("tensor"), "_scale", {1}}};
}

bool is_quantised(const std::string& name) {
  return name.ends_with(".weight") && (name.find(".experts.") != std::string::npos ||
                                       name.find(".shared_expert") != std::string::npos);
}

// A matrix as codes, and its scales beside it. Shared experts are dequantised to bf16.
Stored quantise(const std::string& name, Stored& t, const Method& m) {
  const int64_t rows = t.shape[0], cols = t.shape[1];
  const Shape blocks = scales_shape(t.shape, m.block);
  const auto block_of = [&](int64_t i) {
    const int64_t row = m.block.rows == kWhole ? 0 : i / cols / m.block.rows;
    const int64_t col = m.block.cols == kWhole ? 0 : i % cols / m.block.cols;
    return static_cast<size_t>(row * blocks[1] + col);
  };
  std::vector<float> scales(static_cast<size_t>(blocks.count()), 1e-6f);
  for (int64_t i = 0; i < rows * cols; ++i) {
    float& scale = scales[block_of(i)];
    scale = std::max(scale, static_cast<float>(std::abs(t.values[static_cast<size_t>(i)]) / 448));
  }
  t.dtype = "F8_E4M3";
  t.bytes.clear();
  for (int64_t i = 0; i < rows * cols; ++i) {
    double& value = t.values[static_cast<size_t>(i)];
    const F8E4m3 code(static_cast<float>(value) / scales[block_of(i)]);
    const float product = static_cast<float>(code) * scales[block_of(i)];
    const bool shared = name.find("shared") != std::string::npos;
    value = shared ? static_cast<float>(Bf16(product)) : product;
    Maker::append(t, code.bits());
  }
  Stored stored{m.scales.rank() > 0 ? m.scales : blocks, "F32", {}, {}};
  for (const float scale : scales) {
    Maker::append(stored, scale);
    stored.values.push_back(scale);
  }
  return stored;
}

struct Case {
  const char* family;
  Method method;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* family : {"deepseek_v3", "qwen3_moe", "glm4_moe", "minimax_m2"})
    for (const Method& method : methods()) all.push_back({family, method});
  return all;
}

class Fp8Checkpoints : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, Fp8Checkpoints, ::testing::ValuesIn(cases()), [](const auto& info) {
  return std::string(info.param.family) + "_" + info.param.method.name;
});

// Every rank has the same tokens.
std::vector<Buffer<Bf16>> run(const Checkpoint& checkpoint, int64_t layer, int ranks,
                              const std::string& strategy) {
  std::vector<Buffer<Bf16>> outputs(static_cast<size_t>(ranks));
  run_local_ranks(ranks, [&](Communicator& comm) {
    const auto weights =
        checkpoint.load_layer(layer, comm.size(), comm.rank(), {}, WeightForms::Native);
    EXPECT_EQ(weights.experts.w1.dtype, DType::F8E4m3);
    const ConstTensor hidden = definition_input().view();
    Buffer<Bf16> output(hidden.shape);
    const auto made =
        MoeLayer::create(checkpoint.config(layer), weights, comm, small_options(strategy));
    EXPECT_EQ(made->strategy().rows, ranks > 1 ? DType::F8E4m3 : DType::Bf16);
    made->forward({.output = output.view(), .hidden = hidden});
    made->wait();
    outputs[static_cast<size_t>(comm.rank())] = std::move(output);
  });
  return outputs;
}

TEST_P(Fp8Checkpoints, RunFromFileOnOneTwoAndFourRanks) {
  const auto& [family, method] = GetParam();
  Definition d = find_definition(family);
  d.config["quantization_config"] = method.config;
  Tensors tensors = make_tensors(d), scales;
  for (auto& [name, t] : tensors)
    if (is_quantised(name)) scales[name + method.suffix] = quantise(name, t, method);
  ASSERT_GE(scales.size(), 3u * kExperts);
  tensors.merge(scales);
  const TemporaryFolder folder;
  write_checkpoint(folder.path(), d, tensors);
  const auto checkpoint = Checkpoint::open(folder.path());
  const auto expected = expected_output(d, tensors);
  for (const int ranks : {1, 2, 4})
    for (const char* layout : {"contiguous", "masked"}) {
      const auto strategy = std::string(ranks > 1 ? "normal+" : "local+") + layout;
      for (const auto& output : run(*checkpoint, d.layer, ranks, strategy)) {
        const auto difference = compare(output.view(), expected.view());
        EXPECT_GT(difference.rel_error, 4e-3) << strategy << ", " << ranks;  // rows were quantised
        EXPECT_LE(difference.calc_diff, 3e-3) << strategy << ", " << ranks;
      }
    }
}

}  // namespace
}  // namespace switchyard::testing
