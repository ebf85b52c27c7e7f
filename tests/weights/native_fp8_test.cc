// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/native_fp8_test.cc -- experts that stay fp8 in more than one block: each number of
// memory against that of the file, in code and scale.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "switchyard/safetensors.h"
#include "testing/f8_weights.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::F8Matrix;
using testing::TemporaryFolder;

// 200 rows of gate end inside a block of 128.
constexpr int64_t kHidden = 384, kInner = 200, kExperts = 3;
constexpr int64_t kWhole = ScaleBlock::kWhole;

struct Method {
  const char* name;
  ScaleBlock block;    // in the file
  int64_t rows_of_w1;  // of a block in memory
  nlohmann::json quantization;
};

nlohmann::json float8(const std::string& strategy) {
  return {
      {"quant_method", "compressed-tensors"},
      {"format", "float-quantized"},
      {"config_groups",
       {{"group_0",
         {{"weights",
           {{"num_bits", 8}, {"type", "float"}, {"strategy", strategy}, {"symmetric", true}}}}}}}};
}

std::vector<Method> methods() {
  return {{"Block", {128, 128}, 8, {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}}},
          {"Wide", {64, 256}, 8, {{"quant_method", "fp8"}, {"weight_block_size", {64, 256}}}},
          {"Channel", {1, kWhole}, 1, float8("channel")},
          {"Tensor", {kWhole, kWhole}, kInner, float8("tensor")}};
}

// What a file holds, and where W1's halves are in it.
struct File {
  explicit File(const Method& m, bool is_fused) : method(m), fused(is_fused) {
    const auto quantised = [&](Shape shape, uint64_t seed) {
      all.push_back(testing::f8_matrix(testing::random_bf16(shape, seed).view(), m.block));
      return all.size() - 1;
    };
    if (fused) {
      add("experts.gate_up_proj", quantised({kExperts, 2 * kInner, kHidden}, 1), false);
      add("experts.down_proj", quantised({kExperts, kHidden, kInner}, 2), false);
      return;
    }
    for (int64_t e = 0; e < kExperts; ++e)
      for (const char* name : {"gate", "up", "down"}) {
        const bool down = std::string(name) == "down";
        const Shape shape = down ? Shape{1, kHidden, kInner} : Shape{1, kInner, kHidden};
        add("experts." + std::to_string(e) + "." + name + "_proj.weight",
            quantised(shape, static_cast<uint64_t>(10 * e + name[0])), true);
      }
  }

  std::unique_ptr<Checkpoint> open(const TemporaryFolder& folder) const {
    nlohmann::json config = {{"model_type", "qwen3_moe"},
                             {"hidden_size", kHidden},
                             {"num_experts", kExperts},
                             {"moe_intermediate_size", kInner},
                             {"num_experts_per_tok", 1},
                             {"num_hidden_layers", 1},
                             {"norm_topk_prob", true},
                             {"hidden_act", "silu"},
                             {"quantization_config", method.quantization}};
    testing::write_file(folder / "config.json", config.dump());
    const auto router = testing::random_bf16({kExperts, kHidden}, 3);
    std::vector<NamedTensor> tensors{{"model.layers.0.mlp.gate.weight", router.view()}};
    for (const auto& [name, index, one] : named) {
      const F8Matrix& m = all[index];
      ConstTensor codes = m.codes.view(), scales = m.scales.view();
      if (one) {
        codes.shape = {codes.dim(1), codes.dim(2)};
        scales.shape = {scales.dim(1), scales.dim(2)};
      }
      const bool inverse = method.quantization.at("quant_method") == "fp8";
      tensors.push_back({"model.layers.0.mlp." + name, codes});
      tensors.push_back(
          {"model.layers.0.mlp." + name + (inverse ? "_scale_inv" : "_scale"), scales});
    }
    write_safetensors(folder / "model.safetensors", tensors);
    return Checkpoint::open(folder.path());
  }

  // Code and scale of W1 or W2 of an expert, as the file has them.
  std::pair<int, float> number(bool w1, int64_t e, int64_t row, int64_t col) const {
    size_t index = w1 ? 0 : 1;
    if (!fused) {
      index = static_cast<size_t>(3 * e) + (w1 ? static_cast<size_t>(row / kInner) : 2);
      e = 0;
      if (w1) row %= kInner;
    }
    return number_of(all[index].codes.view(), all[index].view_of_scales(), e, row, col);
  }
  static std::pair<int, float> number_of(ConstTensor codes, const BlockScales& s, int64_t e,
                                         int64_t row, int64_t col) {
    const auto in_blocks = [](int64_t at, int64_t size) { return size == kWhole ? 0 : at / size; };
    const int64_t at = (e * s.values.dim(1) + in_blocks(row, s.block.rows)) * s.values.dim(2) +
                       in_blocks(col, s.block.cols);
    return {codes.as<F8E4m3>()[(e * codes.dim(1) + row) * codes.dim(2) + col].bits(),
            s.values.as<float>()[at]};
  }

 private:
  struct Named {
    std::string name;
    size_t index;
    bool one;  // expert a tensor
  };
  void add(const std::string& name, size_t index, bool one) { named.push_back({name, index, one}); }

  Method method;
  bool fused;
  std::vector<F8Matrix> all;
  std::vector<Named> named;
};

class NativeFp8 : public ::testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(All, NativeFp8, ::testing::ValuesIn(methods()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(NativeFp8, CodesAndScalesAreThoseOfTheFileOnEveryRank) {
  for (const bool fused : {false, true}) {
    const File file(GetParam(), fused);
    const TemporaryFolder folder;
    const auto checkpoint = file.open(folder);
    EXPECT_EQ(
        checkpoint->native_format(0),
        (ExpertFormat{
            DType::F8E4m3, {GetParam().rows_of_w1, GetParam().block.cols}, GetParam().block}));
    // Of two ranks the second has expert 2 and a place that is none's.
    for (const auto& [num_ranks, rank] : {std::pair{1, 0}, {2, 0}, {2, 1}}) {
      const auto w = checkpoint->load_layer(0, num_ranks, rank, {}, WeightForms::Native);
      validate(w, checkpoint->config(0), num_ranks);
      const int64_t first = rank * w.experts.w1.dim(0);
      for (int64_t e = 0; e < w.experts.w1.dim(0); ++e)
        for (const bool w1 : {true, false}) {
          const ConstTensor codes = w1 ? w.experts.w1 : w.experts.w2;
          const BlockScales& scales = w1 ? w.experts.w1_scales : w.experts.w2_scales;
          for (int64_t i = 0; i < codes.dim(1) * codes.dim(2); ++i) {
            const int64_t row = i / codes.dim(2), col = i % codes.dim(2);
            const std::pair<int, float> none{0, 0.0f};
            ASSERT_EQ(File::number_of(codes, scales, e, row, col),
                      first + e < kExperts ? file.number(w1, first + e, row, col) : none)
                << (fused ? "fused" : "separate") << " rank " << rank << " expert " << e << " row "
                << row << " column " << col;
          }
        }
    }
  }
}

TEST_P(NativeFp8, TakesHalfTheBytesAndTheirScales) {
  const File file(GetParam(), false);
  const TemporaryFolder folder;
  const auto checkpoint = file.open(folder);
  const MoeConfig c = checkpoint->config(0);
  const ExpertFormat format = checkpoint->native_format(0);
  int64_t done = 0, total = 0;
  const auto w = checkpoint->load_layer(
      0, 1, 0,
      [&](int64_t so_far, int64_t all) {
        done = so_far;
        total = all;
      },
      WeightForms::Native);
  const int64_t numbers = w.experts.w1.count() + w.experts.w2.count();
  const int64_t scales = w.experts.w1_scales.values.bytes() + w.experts.w2_scales.values.bytes();
  EXPECT_EQ(w.experts.w1.bytes() + w.experts.w2.bytes(), numbers);
  EXPECT_EQ(total, weight_bytes(c, 1, format));
  EXPECT_LE(done, total);
  EXPECT_GE(done, total - 16 * 128);  // the alignment of each tensor
  EXPECT_NEAR(static_cast<double>(weight_bytes(c, 1) - weight_bytes(c, 1, format)),
              static_cast<double>(numbers - scales), 4 * 128);
}

TEST_P(NativeFp8, ALayerFromTheFileIsWithinThePublishedBoundOfItsDequantisedForm) {
  const File file(GetParam(), true);
  const TemporaryFolder folder;
  const auto checkpoint = file.open(folder);
  const MoeConfig c = checkpoint->config(0);
  const auto hidden = testing::random_bf16({40, kHidden}, 5);
  Buffer<Bf16> outputs[] = {Buffer<Bf16>({40, kHidden}), Buffer<Bf16>({40, kHidden})};
  for (const auto forms : {WeightForms::Bf16, WeightForms::Native}) {
    Buffer<Bf16>& output = outputs[forms == WeightForms::Native];
    const auto layer = MoeLayer::create(c, checkpoint->load_layer(0, 1, 0, {}, forms), {});
    layer->forward({.output = output.view(), .hidden = hidden.view()});
    layer->wait();
  }
  Buffer<double> expected({40, kHidden});
  for (int64_t i = 0; i < expected.count(); ++i) expected[i] = static_cast<float>(outputs[0][i]);
  const auto d = compare(outputs[1].view(), expected.view());
  EXPECT_GT(d.calc_diff, 0);  // rows were quantised
  EXPECT_LE(d.calc_diff, 3e-3);
}

}  // namespace
}  // namespace switchyard
