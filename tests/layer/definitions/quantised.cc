// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// Experts as published in small numbers: DeepSeek's weight_dequant, OCP Microscaling Formats 1.0.
#include <algorithm>
#include <cmath>

#include "testing/family_definitions.h"

namespace switchyard::testing {
namespace {

const std::string kMlp = "model.layers.1.mlp";

void make_mxfp4(Maker& m, const std::string& name, int64_t rows, int64_t cols) {
  static const double kFp4[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  Stored blocks{{kExperts, rows, cols / 32, 16}, "U8", {}, {}};
  Stored scales{{kExperts, rows, cols / 32}, "U8", {}, {}};
  for (int64_t block = 0; block < kExperts * rows * cols / 32; ++block) {
    const auto exponent = static_cast<uint8_t>(127 - 6 + static_cast<int>(m.bits() % 3));
    Maker::append(scales, exponent);
    for (int pair = 0; pair < 16; ++pair) {
      const auto bits = static_cast<uint8_t>(m.bits());
      Maker::append(blocks, bits);
      for (const unsigned nibble : {bits & 15u, bits >> 4 & 15u})
        blocks.values.push_back((nibble & 8 ? -1 : 1) * kFp4[nibble & 7] *
                                std::pow(2.0, exponent - 127));
    }
  }
  m.tensors[name + "_blocks"] = std::move(blocks);
  m.tensors[name + "_scales"] = std::move(scales);
}

// gpt-oss as published: blocks of 32, gate and up rows alternating.
Definition gpt_oss_mxfp4() {
  Definition d;
  const std::string at = kMlp;
  d.name = "gpt_oss mxfp4";
  d.stored = "mxfp4";
  d.config = base_config("gpt_oss", "num_local_experts", "intermediate_size");
  d.config["swiglu_limit"] = 0.5;  // low, so that it matters
  d.config["quantization_config"] = {{"quant_method", "mxfp4"}};
  d.tensors.push_back([=](Maker& m) {
    make_mxfp4(m, at + ".experts.gate_up_proj", 2 * kInner, kHidden);
    make_mxfp4(m, at + ".experts.down_proj", kHidden, kInner);
  });
  gpt_oss_biases(d, at);
  d.expert = [=](const Tensors& t, size_t expert, const Row& x) {
    const auto e = static_cast<int64_t>(expert);
    const View w1{at + ".experts.gate_up_proj_blocks", e * 2 * kInner * kHidden, kHidden, 1};
    const View w2{at + ".experts.down_proj_blocks", e * kHidden * kInner, kInner, 1};
    return gpt_oss_expert(t, at, w1, w2, expert, x);
  };
  return d;
}

Stored fp8_scales(Maker& m, Shape shape) {
  Stored scale{shape, "F32", {}, {}};
  for (int64_t i = 0; i < shape.count(); ++i) {
    const auto value = static_cast<float>(0.0004 * (1.5 + m.uniform()));
    Maker::append(scale, value);
    scale.values.push_back(value);
  }
  return scale;
}

double e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double magnitude =
      exponent == 0 ? mantissa * std::pow(2.0, -9) : (8 + mantissa) * std::pow(2.0, exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

// DeepSeek-V3 as published: matrices in e4m3 with a scale for each block, here of 32 x 48 so that
// blocks are cut at both edges.
void make_fp8(Maker& m) {
  Tensors scales;
  for (auto& [name, t] : m.tensors) {
    if (!name.ends_with("_proj.weight")) continue;
    const int64_t rows = t.shape[0], cols = t.shape[1], scale_cols = (cols + 47) / 48;
    Stored scale = fp8_scales(m, {(rows + 31) / 32, scale_cols});
    t.bytes.clear();
    t.dtype = "F8_E4M3";
    for (int64_t i = 0; i < rows * cols; ++i) {
      auto bits = static_cast<uint8_t>(m.bits());
      if ((bits & 0x7f) == 0x7f) bits ^= 1;  // NaN
      const double value =
          e4m3(bits) *
          scale.values[static_cast<size_t>(i / cols / 32 * scale_cols + i % cols / 48)];
      Maker::append(t, bits);
      // "Exactly" is to bf16: the product in fp32, then one rounding.
      t.values[static_cast<size_t>(i)] = static_cast<float>(Bf16(static_cast<float>(value)));
    }
    scales[name + "_scale_inv"] = std::move(scale);
  }
  m.tensors.merge(scales);
}

Definition deepseek_v3_fp8() {
  const auto all = sigmoid_definitions();
  Definition d = *std::find_if(all.begin(), all.end(),
                               [](const Definition& of) { return of.name == "deepseek_v3"; });
  d.name += " fp8";
  d.stored = "fp8 in 32x48 blocks";
  d.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {32, 48}}};
  d.tensors.push_back(make_fp8);
  return d;
}

}  // namespace

std::vector<Definition> quantised_definitions() {
  return {gpt_oss_mxfp4(), deepseek_v3_fp8()};
}

}  // namespace switchyard::testing
