// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/quantised_test.cc -- every quantised form against a float64 decoding written here,
// bit by bit; forms that are unclear, contradictory or damaged are refused by name.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "switchyard/checkpoint.h"
#include "switchyard/error.h"
#include "testing/error_of.h"
#include "testing/raw_checkpoint.h"
#include "testing/temporary_folder.h"
#include "weights/stored_tensor.h"

namespace switchyard {
namespace {

using nlohmann::json;
using testing::Raw;
using testing::TemporaryFolder;
using Tensors = testing::RawTensors;

// 64 and 96 are multiples of every group; blocks of 40 x 56 are cut at both edges of both matrices.
constexpr int64_t kHidden = 96, kInner = 64, kExperts = 4;
constexpr int64_t kBlockRows = 40, kBlockCols = 56;
const std::string kMlp = "model.layers.0.mlp";

// ---- files

int64_t width_of(const std::string& dtype) {
  static const std::map<std::string, int64_t> widths = {{"F64", 8}, {"I64", 8},  {"F32", 4},
                                                        {"I32", 4}, {"BF16", 2}, {"F16", 2}};
  const auto at = widths.find(dtype);
  return at == widths.end() ? 1 : at->second;
}

int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

template <class T>
T load(const Raw& raw, int64_t i) {
  T value;
  std::memcpy(&value, raw.bytes.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void put(Raw& raw, int64_t i, T value) {
  std::memcpy(raw.bytes.data() + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
}

// Every byte value occurs where there are 256 of them.
Raw random_raw(const std::string& dtype, std::vector<int64_t> shape, std::mt19937& rng) {
  Raw raw{dtype, std::move(shape), {}};
  raw.bytes.resize(static_cast<size_t>(count_of(raw.shape) * width_of(dtype)));
  for (size_t i = 0; i < raw.bytes.size(); ++i) raw.bytes[i] = static_cast<uint8_t>(i);
  std::shuffle(raw.bytes.begin(), raw.bytes.end(), rng);
  return raw;
}

// ---- numbers, by the definition of each format

double binary(unsigned bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int e = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int m = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
  const double magnitude = e == 0 ? std::ldexp(m, 1 - bias - mantissa_bits)
                                  : std::ldexp(m + (1 << mantissa_bits), e - bias - mantissa_bits);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

double e4m3(uint8_t bits) {
  return (bits & 0x7f) == 0x7f ? std::nan("") : binary(bits, 4, 3);
}

double e2m1(unsigned half) {
  static const double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return half & 8 ? -kValues[half & 7] : kValues[half & 7];
}

double e8m0(uint8_t bits) {
  return bits == 255 ? std::nan("") : std::ldexp(1.0, bits - 127);
}

double f16(uint16_t bits) {
  if ((bits & 0x7c00) != 0x7c00) return binary(bits, 5, 10);
  if (bits & 0x3ff) return std::nan("");
  return bits & 0x8000 ? -INFINITY : INFINITY;
}

double scale_at(const Raw& raw, int64_t i) {
  if (raw.dtype == "F32") return load<float>(raw, i);
  if (raw.dtype == "BF16") return std::bit_cast<float>(uint32_t{load<uint16_t>(raw, i)} << 16);
  if (raw.dtype == "F16") return f16(load<uint16_t>(raw, i));
  if (raw.dtype == "F8_E4M3") return e4m3(load<uint8_t>(raw, i));
  return e8m0(load<uint8_t>(raw, i));  // F8_E8M0, U8
}

// To nearest, ties to even, once; by arithmetic, not by bits.
float rounded_to_bf16(float value) {
  if (std::isnan(value) || std::isinf(value) || value == 0) return value;
  const double quantum = std::ldexp(1.0, std::max(std::ilogb(value), -126) - 7);
  return static_cast<float>(std::nearbyint(value / quantum) * quantum);
}

// Scales with the extremes of their type first: zero, the smallest, the largest, not a number.
Raw random_scales(const std::string& dtype, const std::vector<int64_t>& shape, std::mt19937& rng) {
  static const std::map<std::string, std::vector<uint32_t>> extremes = {
      {"F32", {0, 1, 0x007fffff, 0x00800000, 0x7f7fffff, 0x80000001, 0x3f800000}},
      {"BF16", {0, 1, 0x007f, 0x0080, 0x7f7f, 0x8001, 0x3f80}},
      {"F16", {0, 1, 0x03ff, 0x0400, 0x7bff, 0x8001, 0x3c00}},
      {"F8_E4M3", {0, 1, 7, 8, 0x7e, 0x81, 0x7f}},
      {"F8_E8M0", {0, 1, 127, 254, 255, 120, 126}},
      {"U8", {0, 1, 127, 254, 255, 120, 126}}};
  Raw raw = random_raw(dtype, shape, rng);
  const auto& list = extremes.at(dtype);
  const int64_t n = count_of(shape);
  for (int64_t i = 0; i < n; ++i) {
    // A scale alone is a common one; of many the first are extremes, half of the others common.
    const uint32_t bits = list[static_cast<size_t>(n == 1 ? 6 : i) % list.size()];
    if (n > 1 && i >= static_cast<int64_t>(list.size()) && rng() % 2 == 0) continue;
    const uint32_t common = n > 1 && i < static_cast<int64_t>(list.size()) ? bits : 0;
    const float usual = std::uniform_real_distribution<float>(0.001f, 0.01f)(rng);
    const auto usual_bits = std::bit_cast<uint32_t>(usual);
    if (dtype == "F32") put(raw, i, common ? common : usual_bits);
    if (dtype == "BF16") put(raw, i, static_cast<uint16_t>(common ? common : usual_bits >> 16));
    if (dtype == "F16") put(raw, i, static_cast<uint16_t>(common ? common : 0x1c00 + rng() % 1024));
    if (width_of(dtype) == 1)
      put(raw, i, static_cast<uint8_t>(common ? common : dtype == "F8_E4M3" ? 0x20 : 120));
  }
  return raw;
}

// ---- forms

using Numbers = std::vector<float>;  // as fp32 holds them, before the rounding to bf16

// Adds a quantised matrix [e, n, k] (e == 0: [n, k]) called `name`.
using Put = std::function<Numbers(Tensors&, const std::string& name, int64_t e, int64_t n,
                                  int64_t k, std::mt19937&)>;

struct Form {
  std::string name;
  json quantization;
  std::string shown;  // Checkpoint::stored_format
  Put put;
};

std::string module_of(const std::string& name) {
  return name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
}

std::string suffixed(const std::string& name, const std::string& suffix) {
  return (suffix.starts_with(".") ? module_of(name) : name) + suffix;
}

std::vector<int64_t> with_experts(int64_t e, std::vector<int64_t> shape) {
  if (e > 0) shape.insert(shape.begin(), e);
  return shape;
}

int64_t blocks(int64_t n, int64_t block) {
  return (n + block - 1) / block;
}

// One scale for block_rows x block_cols; 0: all of them. `shape` replaces the scales' shape.
Put fp8(int64_t block_rows, int64_t block_cols, const std::string& dtype, const std::string& suffix,
        std::function<std::vector<int64_t>(int64_t e, int64_t n)> shape = {},
        bool one_for_all = false) {
  return [=](Tensors& t, const std::string& name, int64_t e, int64_t n, int64_t k,
             std::mt19937& rng) {
    const int64_t br = block_rows ? block_rows : n, bc = block_cols ? block_cols : k;
    const int64_t rows = blocks(n, br), cols = blocks(k, bc), matrices = std::max<int64_t>(e, 1);
    const Raw values = random_raw("F8_E4M3", with_experts(e, {n, k}), rng);
    const Raw scales =
        random_scales(dtype, shape ? shape(e, n) : with_experts(e, {rows, cols}), rng);
    Numbers all;
    for (int64_t m = 0; m < matrices; ++m)
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < k; ++c) {
          const int64_t block = one_for_all ? 0 : (m * rows + r / br) * cols + c / bc;
          all.push_back(
              static_cast<float>(e4m3(values.bytes[static_cast<size_t>((m * n + r) * k + c)]) *
                                 scale_at(scales, block)));
        }
    t[name] = values;
    t[suffixed(name, suffix)] = scales;
    return all;
  };
}

// Halves of bytes, the lower first: `value` of each, times scale, over groups along K.
Numbers halves(
    const Raw& values, const Raw& scales, int64_t group,
    const std::function<double(unsigned)>& value,
    const std::function<double(double)>& last = [](double v) { return v; }) {
  Numbers all;
  for (int64_t i = 0; i < static_cast<int64_t>(values.bytes.size()) * 2; ++i) {
    const unsigned byte = values.bytes[static_cast<size_t>(i / 2)];
    const double v = value(i % 2 ? byte >> 4 : byte & 15);
    all.push_back(static_cast<float>(last(v * scale_at(scales, i / group))));
  }
  return all;
}

Put mxfp4(const std::string& values_suffix, const std::string& scales_suffix,
          const std::string& values_dtype, const std::string& scales_dtype) {
  return [=](Tensors& t, const std::string& name, int64_t e, int64_t n, int64_t k,
             std::mt19937& rng) {
    const bool in_blocks = values_suffix == "_blocks";
    const Raw values = random_raw(
        values_dtype,
        in_blocks ? std::vector<int64_t>{e, n, k / 32, 16} : std::vector<int64_t>{n, k / 2}, rng);
    const Raw scales = random_scales(scales_dtype, with_experts(e, {n, k / 32}), rng);
    t[name + values_suffix] = values;
    t[suffixed(name, scales_suffix)] = scales;
    return halves(values, scales, 32, e2m1);
  };
}

Put nvfp4(const std::string& values_suffix, const std::string& overall_suffix, bool divides,
          float overall) {
  return
      [=](Tensors& t, const std::string& name, int64_t, int64_t n, int64_t k, std::mt19937& rng) {
        const Raw values = random_raw("U8", {n, k / 2}, rng);
        const Raw scales = random_scales("F8_E4M3", {n, k / 16}, rng);
        Raw one{"F32", divides ? std::vector<int64_t>{1} : std::vector<int64_t>{}, {}};
        one.bytes.resize(4);
        put(one, 0, overall);
        t[name + values_suffix] = values;
        t[name + "_scale"] = scales;
        t[name + overall_suffix] = one;
        return halves(values, scales, 16, e2m1,
                      [=](double v) { return divides ? v / overall : v * overall; });
      };
}

Put int4(int64_t group, const std::string& dtype, bool with_shape) {
  return
      [=](Tensors& t, const std::string& name, int64_t, int64_t n, int64_t k, std::mt19937& rng) {
        const Raw values = random_raw("I32", {n, k / 8}, rng);
        const Raw scales = random_scales(dtype, {n, group ? k / group : 1}, rng);
        t[name + "_packed"] = values;
        t[name + "_scale"] = scales;
        if (with_shape) {
          Raw shape{"I64", {2}, std::vector<uint8_t>(16)};
          put(shape, 0, n);
          put(shape, 1, k);
          t[name + "_shape"] = shape;
        }
        return halves(values, scales, group ? group : k,
                      [](unsigned half) { return static_cast<double>(half) - 8; });
      };
}

json compressed(const std::string& format, const json& weights) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"ignore", {"lm_head"}},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
}
json float8(const std::string& strategy, const json& more = json::object()) {
  json weights = {{"num_bits", 8}, {"type", "float"}, {"strategy", strategy}, {"symmetric", true}};
  weights.update(more);
  return compressed("float-quantized", weights);
}
json int4_config(const json& more = json::object()) {
  json weights = {{"num_bits", 4},    {"type", "int"},     {"strategy", "group"},
                  {"group_size", 32}, {"symmetric", true}, {"actorder", nullptr}};
  weights.update(more);
  return compressed("pack-quantized", weights);
}
json fp8_config(const json& more = json::object()) {
  json config = {{"quant_method", "fp8"}, {"weight_block_size", {kBlockRows, kBlockCols}}};
  config.update(more);
  return config;
}
json modelopt(const std::string& algorithm) {
  return {{"quant_method", "modelopt"}, {"quant_algo", algorithm}};
}

const std::string kBlocksShown = "fp8 in 40x56 blocks";
const json kNvfp4Weights = {
    {"num_bits", 4}, {"type", "float"}, {"strategy", "tensor_group"}, {"group_size", 16}};
const json kMxfp4Weights = {
    {"num_bits", 4}, {"type", "float"}, {"strategy", "group"}, {"group_size", 32}};

std::vector<int64_t> scalar(int64_t, int64_t) {
  return {};
}
std::vector<int64_t> one(int64_t, int64_t) {
  return {1};
}
std::vector<int64_t> one_per_row(int64_t, int64_t n) {
  return {n};
}
std::vector<int64_t> one_per_expert(int64_t e, int64_t) {
  return {e};
}

// One tensor per expert.
std::vector<Form> separate_forms() {
  std::vector<Form> all;
  for (const char* suffix : {"_scale_inv", "_scale", ".scale"})
    for (const char* dtype : {"F32", "BF16", "F16", "F8_E8M0", "U8"})
      all.push_back({std::string("fp8 blocks ") + suffix + " " + dtype,
                     fp8_config({{"scale_fmt", "ue8m0"}}), kBlocksShown,
                     fp8(kBlockRows, kBlockCols, dtype, suffix)});
  const json block = {{"block_structure", {kBlockRows, kBlockCols}}};
  const json older = {{"block_structure", "40x56"}};
  const json no_size = {{"quant_method", "fp8"}};
  const json null_size = {{"quant_method", "fp8"}, {"weight_block_size", nullptr}};
  const Put tensor = fp8(0, 0, "F32", "_scale", scalar), channel = fp8(1, 0, "BF16", "_scale");
  const Put groups = fp8(1, 32, "U8", "_scale_inv"), e8m0_groups = fp8(1, 32, "F8_E8M0", "_scale");
  const std::vector<Form> more = {
      {"ct blocks", float8("block", block), kBlocksShown,
       fp8(kBlockRows, kBlockCols, "F32", "_scale")},
      {"ct blocks as text", float8("block", older), kBlocksShown,
       fp8(kBlockRows, kBlockCols, "BF16", "_scale")},
      {"ct groups", float8("group", {{"group_size", 16}}), "fp8 in 1x16 blocks",
       fp8(1, 16, "F32", "_scale")},
      {"ct channel", float8("channel"), "fp8 per channel", channel},
      {"ct channel f32", float8("channel"), "fp8 per channel", fp8(1, 0, "F32", "_scale")},
      {"ct channel row", float8("channel"), "fp8 per channel",
       fp8(1, 0, "F16", "_scale", one_per_row)},
      {"ct tensor", float8("tensor"), "fp8 per tensor", fp8(0, 0, "F32", "_scale", one)},
      {"ct tensor 1x1", float8("tensor"), "fp8 per tensor", fp8(0, 0, "BF16", "_scale")},
      {"fp8 static", no_size, "fp8 per tensor", tensor},
      {"fp8 null size", null_size, "fp8 per tensor", fp8(0, 0, "BF16", "_scale_inv", scalar)},
      {"fp8 rows", null_size, "fp8 per channel", channel},
      {"fp8 default size", no_size, "fp8 in 128x128 blocks", fp8(128, 128, "F32", "_scale_inv")},
      {"fp8 undeclared", nullptr, "fp8 in 128x128 blocks", fp8(128, 128, "F32", "_scale_inv")},
      {"fp8 undeclared rows", nullptr, "fp8 per channel", channel},
      {"modelopt fp8", modelopt("FP8"), "fp8 per tensor", tensor},
      {"modelopt channel", modelopt("FP8_PER_CHANNEL_PER_TOKEN"), "fp8 per channel", channel},
      {"mxfp8", {{"quant_method", "mxfp8"}}, "mxfp8", groups},
      {"mxfp8 size",
       {{"quant_method", "mxfp8"}, {"weight_block_size", {1, 32}}},
       "mxfp8",
       e8m0_groups},
      {"mxfp8 of fp8", {{"quant_method", "fp8"}, {"weight_block_size", {1, 32}}}, "mxfp8", groups},
      {"mxfp8 of modelopt", modelopt("MXFP8"), "mxfp8", fp8(1, 32, "U8", "_scale")},
      {"mxfp8 of ct",
       compressed("mxfp8-quantized", float8("group")["config_groups"]["group_0"]["weights"]),
       "mxfp8", fp8(1, 32, "U8", "_scale")},
      {"mxfp4 DeepSeek", fp8_config({{"scale_fmt", "ue8m0"}}), "mxfp4",
       mxfp4("", ".scale", "I8", "F8_E8M0")},
      {"mxfp4 undeclared", nullptr, "mxfp4", mxfp4("", ".scale", "I8", "F8_E8M0")},
      {"mxfp4 ct", compressed("mxfp4-pack-quantized", kMxfp4Weights), "mxfp4",
       mxfp4("_packed", "_scale", "U8", "U8")},
      {"mxfp4 ct e8m0", compressed("mxfp4-pack-quantized", kMxfp4Weights), "mxfp4",
       mxfp4("_packed", "_scale", "U8", "F8_E8M0")},
      {"nvfp4", modelopt("NVFP4"), "nvfp4", nvfp4("", "_scale_2", false, 0.0012345678f)},
      {"nvfp4 smallest", modelopt("NVFP4"), "nvfp4", nvfp4("", "_scale_2", false, 1e-45f)},
      {"nvfp4 largest", modelopt("NVFP4"), "nvfp4", nvfp4("", "_scale_2", false, 3e38f)},
      {"nvfp4 undeclared", nullptr, "nvfp4", nvfp4("", "_scale_2", false, 0.3f)},
      {"nvfp4 ct", compressed("nvfp4-pack-quantized", kNvfp4Weights), "nvfp4",
       nvfp4("_packed", "_global_scale", true, 2345.678f)},
      {"nvfp4 ct tiny", compressed("nvfp4-pack-quantized", kNvfp4Weights), "nvfp4",
       nvfp4("_packed", "_global_scale", true, 3e-39f)},
      {"int4", int4_config(), "int4 in groups of 32", int4(32, "BF16", true)},
      {"int4 f32", int4_config(), "int4 in groups of 32", int4(32, "F32", true)},
      {"int4 f16", int4_config({{"actorder", "weight"}}), "int4 in groups of 32",
       int4(32, "F16", false)},
      {"int4 of 16", int4_config({{"group_size", 16}}), "int4 in groups of 16",
       int4(16, "BF16", true)},
      {"int4 channel", int4_config({{"strategy", "channel"}, {"group_size", nullptr}}),
       "int4 per channel", int4(0, "BF16", true)},
  };
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

// All experts in one tensor.
std::vector<Form> fused_forms() {
  const json tensor = modelopt("FP8");
  return {
      {"blocks", fp8_config(), kBlocksShown, fp8(kBlockRows, kBlockCols, "F32", "_scale_inv")},
      {"blocks bf16", fp8_config(), kBlocksShown, fp8(kBlockRows, kBlockCols, "BF16", "_scale")},
      {"per expert", tensor, "fp8 per tensor", fp8(0, 0, "F32", "_scale", one_per_expert)},
      {"per expert in full", tensor, "fp8 per tensor", fp8(0, 0, "F32", "_scale")},
      {"one for all", tensor, "fp8 per tensor", fp8(0, 0, "F32", "_scale", scalar, true)},
      {"one of one for all", tensor, "fp8 per tensor", fp8(0, 0, "F32", "_scale", one, true)},
      {"per channel", float8("channel"), "fp8 per channel", fp8(1, 0, "BF16", "_scale")},
      {"mxfp8", {{"quant_method", "mxfp8"}}, "mxfp8", fp8(1, 32, "U8", "_scale_inv")},
      {"mxfp4", {{"quant_method", "mxfp4"}}, "mxfp4", mxfp4("_blocks", "_scales", "U8", "U8")},
      {"mxfp4 undeclared", nullptr, "mxfp4", mxfp4("_blocks", "_scales", "U8", "U8")},
  };
}

json model_config() {
  return {{"model_type", "qwen3_moe"},       {"hidden_size", kHidden},   {"num_experts", kExperts},
          {"moe_intermediate_size", kInner}, {"num_experts_per_tok", 1}, {"num_hidden_layers", 1},
          {"norm_topk_prob", true},          {"hidden_act", "silu"}};
}

// A checkpoint of one form, and what it holds.
struct Model {
  int64_t hidden = kHidden;
  json config = model_config();
  Tensors tensors;
  std::vector<float> w1, w2;  // [E, 2I, H] and [E, H, I], before the rounding to bf16

  std::unique_ptr<Checkpoint> open(const TemporaryFolder& folder) const {
    testing::write_raw_checkpoint(folder.path(), config, tensors);
    return Checkpoint::open(folder.path());
  }
};

Model model_of(const json& quantization, std::mt19937& rng, int64_t hidden = kHidden) {
  Model m;
  m.hidden = hidden;
  m.config["hidden_size"] = hidden;
  if (!quantization.is_null()) m.config["quantization_config"] = quantization;
  m.tensors[kMlp + ".gate.weight"] = random_raw("BF16", {kExperts, hidden}, rng);
  return m;
}

void append(std::vector<float>& all, const Numbers& more) {
  all.insert(all.end(), more.begin(), more.end());
}

std::string expert_name(int64_t e, const std::string& projection) {
  return kMlp + ".experts." + std::to_string(e) + "." + projection + ".weight";
}

Model separate(const Form& form, int64_t hidden = kHidden) {
  std::mt19937 rng(7);
  Model m = model_of(form.quantization, rng, hidden);
  for (int64_t e = 0; e < kExperts; ++e) {
    for (const char* name : {"gate_proj", "up_proj"})
      append(m.w1, form.put(m.tensors, expert_name(e, name), 0, kInner, hidden, rng));
    append(m.w2, form.put(m.tensors, expert_name(e, "down_proj"), 0, hidden, kInner, rng));
  }
  // Of activations, and of nothing that is read here.
  const std::string module = module_of(expert_name(0, "up_proj"));
  for (const char* name : {".input_scale", ".activation_scale", ".input_global_scale"})
    m.tensors[module + name] = random_raw("F32", {}, rng);
  return m;
}

Model fused(const Form& form) {
  std::mt19937 rng(9);
  Model m = model_of(form.quantization, rng);
  m.w1 = form.put(m.tensors, kMlp + ".experts.gate_up_proj", kExperts, 2 * kInner, kHidden, rng);
  m.w2 = form.put(m.tensors, kMlp + ".experts.down_proj", kExperts, kHidden, kInner, rng);
  return m;
}

void expect_values(ConstTensor loaded, const std::vector<float>& expected,
                   const std::string& what) {
  ASSERT_EQ(loaded.count(), static_cast<int64_t>(expected.size())) << what;
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto value = static_cast<float>(loaded.as<Bf16>()[i]);
    const float right = rounded_to_bf16(expected[i]);
    if (std::isnan(right) && std::isnan(value)) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(right))
        << what << " at " << i << ": " << value << ", expected " << right;
  }
}

void expect_exact(const Model& m, const Form& form) {
  const TemporaryFolder folder;
  const auto checkpoint = m.open(folder);
  EXPECT_EQ(checkpoint->stored_format(0), form.shown);
  const auto all = checkpoint->load_layer(0, 1, 0);
  expect_values(all.experts.w1, m.w1, form.name + " w1");
  expect_values(all.experts.w2, m.w2, form.name + " w2");
  const auto part = checkpoint->load_layer(0, 2, 1);  // of the second rank
  expect_values(part.experts.w2, {m.w2.begin() + kExperts / 2 * m.hidden * kInner, m.w2.end()},
                form.name);
}

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

class QuantisedForm : public ::testing::TestWithParam<Form> {};
class FusedForm : public ::testing::TestWithParam<Form> {};

std::string name_of(const ::testing::TestParamInfo<Form>& info) {
  std::string name = info.param.name;
  if (const size_t dot = name.find('.'); dot != std::string::npos) name.replace(dot, 1, "own ");
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
}
INSTANTIATE_TEST_SUITE_P(Separate, QuantisedForm, ::testing::ValuesIn(separate_forms()), name_of);
INSTANTIATE_TEST_SUITE_P(All, FusedForm, ::testing::ValuesIn(fused_forms()), name_of);

TEST_P(QuantisedForm, IsReadExactly) {
  expect_exact(separate(GetParam()), GetParam());
}

// A row is read in parts of 2048 numbers. Some forms do: parts are the same code for all.
TEST(Quantised, RowsOfThousandsAreReadExactly) {
  const auto forms = separate_forms();
  for (size_t i = 0; i < forms.size(); i += 12)
    expect_exact(separate(forms[i], 2 * 2048 + kHidden), forms[i]);
}

TEST_P(FusedForm, IsReadExactly) {
  expect_exact(fused(GetParam()), GetParam());
}

// ---- experts that stay fp8

// The codes times their scales are the numbers that the file holds.
void expect_numbers(ConstTensor codes, const BlockScales& scales,
                    const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(codes.dtype, DType::F8E4m3) << what;
  ASSERT_EQ(codes.count(), static_cast<int64_t>(expected.size())) << what;
  ASSERT_EQ(scales.values.shape, scales_shape(codes.shape, scales.block)) << what;
  const int64_t n = codes.dim(1), k = codes.dim(2);
  const auto in_blocks = [](int64_t at, int64_t size) {
    return size == ScaleBlock::kWhole ? 0 : at / size;
  };
  for (int64_t i = 0; i < codes.count(); ++i) {
    const int64_t e = i / (n * k), row = in_blocks(i / k % n, scales.block.rows),
                  col = in_blocks(i % k, scales.block.cols);
    const float scale =
        scales.values.as<float>()[(e * scales.values.dim(1) + row) * scales.values.dim(2) + col];
    const float value = static_cast<float>(codes.as<F8E4m3>()[i]) * scale;
    const float right = expected[static_cast<size_t>(i)];
    if (std::isnan(right) && std::isnan(value)) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(right))
        << what << " at " << i;
  }
}

bool is_kept(const Form& form) {
  return form.shown.starts_with("fp8") && form.shown != kBlocksShown &&
         form.shown != "fp8 in 1x16 blocks";
}

void expect_kept(const Model& m, const Form& form) {
  const TemporaryFolder folder;
  const auto checkpoint = m.open(folder);
  if (form.shown ==
      "mxfp4") {  // exponents from 0 to 254 in a block: mxfp4_blocks_test.cc has others
    EXPECT_EQ(checkpoint->native_format(0).dtype, DType::F8E4m3) << form.name;
    const Error e =
        testing::error_of([&] { (void)checkpoint->load_layer(0, 1, 0, {}, WeightForms::Native); });
    EXPECT_NE(std::string(e.what()).find("--weights bf16"), std::string::npos) << e.what();
    return;
  }
  const auto all = checkpoint->load_layer(0, 1, 0, {}, WeightForms::Native);
  const auto part = checkpoint->load_layer(0, 2, 1, {}, WeightForms::Native);
  const std::vector<float> second(m.w2.begin() + kExperts / 2 * kHidden * kInner, m.w2.end());
  EXPECT_EQ(format_of(all.experts), checkpoint->native_format(0)) << form.name;
  if (is_kept(form)) {
    expect_numbers(all.experts.w1, all.experts.w1_scales, m.w1, form.name + " w1");
    expect_numbers(all.experts.w2, all.experts.w2_scales, m.w2, form.name + " w2");
    expect_numbers(part.experts.w2, part.experts.w2_scales, second, form.name + " part");
  } else {
    EXPECT_FALSE(all.experts.w1_scales.present()) << form.name;
    expect_values(all.experts.w1, m.w1, form.name + " w1");
    expect_values(all.experts.w2, m.w2, form.name + " w2");
    expect_values(part.experts.w2, second, form.name);
  }
}

TEST_P(QuantisedForm, OfFp8IsKeptAsItIsWhereKernelsTakeItsBlocks) {
  expect_kept(separate(GetParam()), GetParam());
}

TEST_P(FusedForm, OfFp8IsKeptAsItIsWhereKernelsTakeItsBlocks) {
  expect_kept(fused(GetParam()), GetParam());
}

// ---- refusals

std::string refusal(const Model& m, Errc code) {
  const TemporaryFolder folder;
  try {
    (void)m.open(folder)->load_layer(0, 1, 0);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_LT(std::string(e.what()).size(), 1000u);
    return e.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

void expect_refused(const Model& m, const std::string& says, Errc code = Errc::Unsupported) {
  const std::string message = refusal(m, code);
  EXPECT_NE(message.find(says), std::string::npos) << message << "\n  should say: " << says;
}

// Another number of elements along a dimension.
void resize(Raw& raw, size_t dim, int64_t by) {
  raw.shape[dim] += by;
  raw.bytes.resize(static_cast<size_t>(count_of(raw.shape) * width_of(raw.dtype)), 120);
}

// Every tensor of a matrix, one larger and one smaller in each dimension: what would be read then
// lies outside of it, or elsewhere.
void expect_every_shape_is_checked(const Model& good, const std::string& matrix) {
  for (const auto& [name, raw] : good.tensors) {
    if (!name.starts_with(module_of(matrix)) || name.find(".input_") != std::string::npos ||
        name.find(".activation_") != std::string::npos)
      continue;
    for (size_t dim = 0; dim < raw.shape.size(); ++dim)
      for (const int64_t by : {-1, 1}) {
        Model bad = good;
        resize(bad.tensors[name], dim, by);
        const TemporaryFolder folder;
        const auto checkpoint = bad.open(folder);
        try {
          (void)checkpoint->load_layer(0, 1, 0);
          ADD_FAILURE() << name << " dimension " << dim << " by " << by;
        } catch (const Error& e) {
          EXPECT_NE(std::string(e.what()).find(module_of(matrix)), std::string::npos) << e.what();
        }
      }
    Model bad = good;
    bad.tensors[name].dtype = raw.dtype == "F32" ? "I32" : "BOOL";
    bad.tensors[name].bytes.resize(
        static_cast<size_t>(count_of(raw.shape) * width_of(bad.tensors[name].dtype)));
    EXPECT_NE(refusal(bad, Errc::Unsupported).find(module_of(matrix)), std::string::npos) << name;
  }
}

TEST_P(QuantisedForm, EveryShapeAndDtypeIsChecked) {
  expect_every_shape_is_checked(separate(GetParam()), expert_name(1, "down_proj"));
}

TEST_P(FusedForm, EveryShapeAndDtypeIsChecked) {
  expect_every_shape_is_checked(fused(GetParam()), kMlp + ".experts.down_proj");
}

TEST_P(QuantisedForm, WithoutItsScalesIsRefused) {
  Model m = separate(GetParam());
  std::erase_if(m.tensors,
                [](const auto& entry) { return entry.first.find("scale") != std::string::npos; });
  expect_refused(m, "has no scale beside it");
}

Form form_called(const std::string& name) {
  for (const auto& forms : {separate_forms(), fused_forms()})
    for (const Form& form : forms)
      if (form.name == name) return form;
  ADD_FAILURE() << name;
  return {};
}

struct Contradiction {
  const char* form;
  const char* says;
  json quantization;  // in place of the form's own
};

TEST(Quantised, WhatConfigAndTensorsDoNotAgreeOnIsRefused) {
  const json channel = float8("channel"), tensor = float8("tensor");
  const json block = float8("block", {{"block_structure", {kBlockRows, kBlockCols}}});
  const Contradiction all[] = {
      {"ct channel", "need [2, 2]: a scale for each 40 x 56 block", block},
      {"ct channel", "need [1, 1]: a scale for each matrix", tensor},
      {"ct channel", "need [1, 1]: a scale for each matrix", modelopt("FP8")},
      {"ct channel", "says nvfp4", modelopt("NVFP4")},
      {"ct channel", "says int4 in groups of 32", int4_config()},
      {"ct tensor", "need [64, 1]: a scale for each row", channel},
      {"ct blocks", "need [64, 1]: a scale for each row", channel},
      {"ct blocks", "_scale [2, 2] fits no form of it", {{"quant_method", "fp8"}}},
      {"ct blocks", "_scale [2, 2] fits no form of it", nullptr},
      {"ct channel", "_scale is BF16, need F8_E8M0 or U8", {{"quant_method", "mxfp8"}}},
      {"fp8 blocks _scale_inv U8", "U8 where quantization_config says", fp8_config()},
      {"ct groups", "_scale is F32, need F8_E8M0 or U8", {{"quant_method", "mxfp8"}}},
      {"int4", "it is int4; quantization_config: quant_method=fp8, says fp8 in 40x56",
       fp8_config()},
      {"int4", "it is int4; without quantization_config", nullptr},
      {"int4", "need [64, 6]: a scale for each 16 values", int4_config({{"group_size", 16}})},
      {"int4", "need a multiple of the group of 40", int4_config({{"group_size", 40}})},
      {"int4", "says nvfp4", modelopt("NVFP4")},
      {"nvfp4", "it is nvfp4; quantization_config: quant_method=fp8", fp8_config()},
      {"nvfp4", "says mxfp4", {{"quant_method", "mxfp4"}}},
      {"nvfp4 ct", "it is nvfp4", compressed("mxfp4-pack-quantized", kMxfp4Weights)},
      {"mxfp4 ct", "it is mxfp4", compressed("nvfp4-pack-quantized", kNvfp4Weights)},
      {"mxfp4 ct", "U8 where quantization_config says", nullptr},
      {"mxfp4 DeepSeek", "it is mxfp4", modelopt("NVFP4")},
      {"ct channel", "says no quantised weights",
       compressed("dense", {{"num_bits", 8}, {"type", "float"}})},
  };
  for (const auto& c : all) {
    SCOPED_TRACE(std::string(c.form) + " as " + c.quantization.dump());
    Model m = separate(form_called(c.form));
    m.config["quantization_config"] = c.quantization;
    const bool is_shape = std::string(c.says).starts_with("need");
    expect_refused(m, c.says, is_shape ? Errc::BadFile : Errc::Unsupported);
  }
  Model m = separate(form_called("mxfp4 DeepSeek"));
  m.config["expert_dtype"] = "fp4";
  const TemporaryFolder folder;
  EXPECT_EQ(m.open(folder)->stored_format(0), "mxfp4");
  m.config["expert_dtype"] = "fp8";
  expect_refused(m, "it is mxfp4");
}

TEST(Quantised, FormsWithTheSameNumberOfScalesAreUnclear) {
  Model m = separate(form_called("ct blocks"));
  json& groups = m.config["quantization_config"]["config_groups"];
  groups["group_1"] = groups["group_0"];
  groups["group_1"]["weights"]["block_structure"] = {48, 64};  // [2, 2] as well
  expect_refused(m, "fits several forms of it");
  groups["group_1"]["weights"]["block_structure"] = {40, 8};
  const TemporaryFolder folder;
  EXPECT_EQ(m.open(folder)->stored_format(0), kBlocksShown);
}

TEST(Quantised, ScalesBesideAPlainTensorAreRefused) {
  std::mt19937 rng(3);
  const std::string name = expert_name(1, "up_proj");
  for (const char* suffix : {"_scale", "_scale_inv", ".scale", "_scale_2", "_global_scale"}) {
    Model m = separate(form_called("ct channel"));
    std::erase_if(m.tensors,
                  [&](const auto& entry) { return entry.first.starts_with(module_of(name)); });
    m.tensors[name] = random_raw("BF16", {kInner, kHidden}, rng);
    const TemporaryFolder folder;
    EXPECT_NO_THROW((void)m.open(folder)->load_layer(0, 1, 0));  // not converted
    m.tensors[suffixed(name, suffix)] = random_raw("F32", {}, rng);
    expect_refused(m, "A plain tensor has no scale");
  }
}

TEST(Quantised, TwoOfAKindAreRefused) {
  const std::string name = expert_name(0, "gate_proj");
  Model m = separate(form_called("ct channel"));
  m.tensors[name + "_scale_inv"] = m.tensors[name + "_scale"];
  expect_refused(m, "both are there");
  m = separate(form_called("int4"));
  m.tensors[name] = m.tensors[name + "_packed"];
  expect_refused(m, "both are there");
  m = separate(form_called("nvfp4"));
  m.tensors[name + "_global_scale"] = m.tensors[name + "_scale_2"];
  expect_refused(m, "both are there");
  for (const char* form : {"ct channel", "int4", "mxfp4 ct"}) {  // of nvfp4 alone
    m = separate(form_called(form));
    m.tensors[name + "_global_scale"] = {"F32", {}, {0, 0, 0, 0}};
    expect_refused(m, "only nvfp4 has");
  }
}

TEST(Quantised, Nvfp4WithoutTheScaleOfTheTensorIsRefused) {
  Model m = separate(form_called("nvfp4"));
  m.tensors.erase(expert_name(0, "gate_proj") + "_scale_2");
  expect_refused(m, "nvfp4 needs weight_scale_2 or weight_global_scale");
}

TEST(Quantised, AWeightShapeThatIsWrongIsRefused) {
  Model m = separate(form_called("int4"));
  put(m.tensors[expert_name(0, "gate_proj") + "_shape"], 1, kHidden - 1);
  expect_refused(m, "says [64, 95]", Errc::BadFile);
}

TEST(Quantised, FloatsOfAnotherKindAreRefused) {
  Model m = separate(form_called("ct channel"));
  m.tensors[expert_name(0, "gate_proj")].dtype = "F8_E5M2";
  expect_refused(m, "dtype=F8_E5M2");
}

TEST(Quantised, SizesThatOverflowAreRefused) {
  Model m = separate(form_called("int4"));
  m.tensors[expert_name(0, "gate_proj") + "_packed"] = {"I32", {0, INT64_MAX / 4}, {}};
  m.tensors[expert_name(0, "gate_proj") + "_scale"] = {"BF16", {0, 1}, {}};
  expect_refused(m, "does not fit 63 bits", Errc::ShapeMismatch);
  m.tensors.erase(expert_name(0, "gate_proj") + "_shape");
  m.tensors[expert_name(0, "gate_proj") + "_packed"] = {"I32", {0, 0}, {}};
  m.tensors[expert_name(0, "gate_proj") + "_scale"] = {"BF16", {0, 0}, {}};
  expect_refused(m, "has shape", Errc::BadFile);
}

TEST(Quantised, MethodsThatAreNotReadAreNamed) {
  const Form form = form_called("int4");
  for (const char* method :
       {"gptq", "awq", "bitsandbytes", "hqq", "fbgemm_fp8", "quark", "torchao"}) {
    for (const bool is_nested : {false, true}) {
      Model m = separate(form);
      m.config.erase("quantization_config");
      const json quantization = {{"quant_method", method}, {"bits", 4}};
      if (is_nested) {
        m.config["quantization_config"] = quantization;
        m.config = {{"model_type", "some_vision_model"}, {"text_config", m.config}};
      } else {
        m.config["quantization_config"] = quantization;
      }
      std::erase_if(m.tensors, [](const auto& entry) {  // as if it were missing
        return entry.first.find("experts") != std::string::npos;
      });
      expect_refused(m, std::string("quantization_config: quant_method=") + method +
                            ", is not read; known are fp8, compressed-tensors");
      const TemporaryFolder folder;
      EXPECT_EQ(m.open(folder)->quant_method(), method);
    }
  }
}

TEST(Quantised, TensorsOfMethodsThatAreNotReadAreNamed) {
  const std::string name = expert_name(0, "gate_proj"), module = module_of(name);
  std::mt19937 rng(1);
  for (const auto& part :
       {module + ".qweight", module + ".qzeros", module + ".g_idx", module + ".W_q",
        module + ".SCB", module + ".pre_quant_scale", name + "_zero_point", name + "_g_idx",
        name + ".absmax", name + ".quant_map"}) {
    Model m = separate(form_called("int4"));
    m.tensors[part] = random_raw("U8", {4}, rng);
    expect_refused(m, part + ": is of a quantised form that is not read");
    m.config.erase("quantization_config");
    m.tensors.erase(name + "_packed");
    expect_refused(m, part + ": is of a quantised form that is not read");
  }
}

TEST(Quantised, KeysThatAreNotReadAreNamed) {
  const json transform = {{"config_groups", {{"u", {{"type", "hadamard"}}}}}};
  json with_transform = int4_config(), sparse = float8("channel"), marlin = int4_config();
  with_transform["transform_config"] = transform;
  sparse["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
  marlin["format"] = "marlin-24";
  json own_format = int4_config();
  own_format["config_groups"]["group_0"]["format"] = "int-quantized";
  json no_groups = {{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}};
  const std::pair<json, const char*> all[] = {
      {int4_config({{"symmetric", false}}), "symmetric=false, is not read"},
      {int4_config({{"actorder", "group"}}), "actorder=group, is not read"},
      {int4_config({{"actorder", true}}), "actorder=true, is not read"},
      {int4_config({{"num_bits", 8}}), "format=pack-quantized of 8-bit int, is not read"},
      {int4_config({{"type", "float"}}), "format=pack-quantized of 4-bit float, is not read"},
      {int4_config({{"strategy", "tensor"}}), "strategy=tensor, is not read"},
      {float8("token"), "strategy=token, is not read"},
      {float8("tensor", {{"type", "int"}}), "format=float-quantized of 8-bit int, is not read"},
      {compressed("mxfp4-pack-quantized", kNvfp4Weights), "group_size=16 of mxfp4-pack-quantized"},
      {compressed("nvfp4-pack-quantized", kMxfp4Weights), "group_size=32 of nvfp4-pack-quantized"},
      {compressed("nvfp4-pack-quantized", {{"num_bits", 4}, {"type", "int"}}), "type=int of nvfp4"},
      {compressed("mxfp8-quantized",
                  {{"num_bits", 8}, {"type", "float"}, {"strategy", "group"}, {"group_size", 64}}),
       "group_size=64, is not read"},
      {marlin, "format=marlin-24, is not read"},
      {own_format, "format=int-quantized, is not read"},
      {no_groups, "config_groups=nothing, is not read"},
      {with_transform, "transform_config={"},
      {sparse, "sparsity_config.format=sparse-24-bitmask, is not read"},
      {modelopt("W4A8_AWQ"), "quant_algo=W4A8_AWQ, is not read"},
      {modelopt("MIXED_PRECISION"), "quant_algo=MIXED_PRECISION, is not read"},
      {{{"quant_method", "modelopt"}}, "quant_algo=nothing, is not read"},
      {fp8_config({{"fmt", "e5m2"}}), "fmt=e5m2, is not read"},
      {{{"quant_method", "mxfp8"}, {"weight_block_size", {1, 64}}}, "weight_block_size=[1,64]"},
      {{{"load_in_4bit", true}}, "quant_method=nothing, is not read"},
  };
  for (const auto& [quantization, says] : all) {
    Model m = separate(form_called("int4"));
    m.config["quantization_config"] = quantization;
    expect_refused(m, says);
  }
}

TEST(Quantised, ConfigsThatAreSenselessAreRefused) {
  const std::pair<json, const char*> all[] = {
      {7, "quantization_config=7, need an object"},
      {{{"quant_method", 7}}, "quant_method=7, need a string"},
      {fp8_config({{"weight_block_size", {0, 128}}}), "need two positive ones"},
      {fp8_config({{"weight_block_size", {128}}}), "need two positive ones"},
      {fp8_config({{"weight_block_size", json::array()}}), "need two positive ones"},
      {fp8_config({{"weight_block_size", "128"}}), "need a list of integers"},
      {float8("block"), "need two positive ones"},
      {float8("block", {{"block_structure", "128"}}), "need two positive ones"},
      {float8("block", {{"block_structure", "128x"}}), "need two positive ones"},
      {float8("block", {{"block_structure", "99999999999999999999x1"}}), "need two positive ones"},
      {int4_config({{"group_size", 0}}), "need two positive ones"},
      {int4_config({{"group_size", nullptr}}), "group_size=null, need an integer"},
      {int4_config({{"symmetric", 1}}), "symmetric=1, need true or false"},
      {{{"quant_method", "compressed-tensors"}, {"config_groups", {{"a", 1}}}},
       "config_groups.a=1, need an object"},
      {{{"quant_method", "modelopt"},
        {"quant_algo", "MIXED_PRECISION"},
        {"quantized_layers", {{"a", 1}}}},
       "quantized_layers holds 1"},
  };
  for (const auto& [quantization, says] : all) {
    Model m = separate(form_called("int4"));
    m.config["quantization_config"] = quantization;
    expect_refused(m, says, Errc::BadFile);
  }
}

TEST(Quantised, WithoutASizeFp8IsInBlocksOf128OrHasScalesThatTellTheirShape) {
  const auto forms = [](const json& quantization) {
    return forms_text(read_quantization({{"quantization_config", quantization}}, "c").forms);
  };
  EXPECT_EQ(forms({{"quant_method", "fp8"}}),
            "fp8 in 128x128 blocks or fp8 per tensor or fp8 per channel or mxfp4");
  EXPECT_EQ(forms({{"quant_method", "fp8"}, {"weight_block_size", nullptr}}),
            "fp8 per tensor or fp8 per channel or mxfp4");
  EXPECT_EQ(forms(nullptr),
            "fp8 in 128x128 blocks or fp8 per tensor or fp8 per channel or mxfp4 or nvfp4");
}

// The last guard before a file's bytes are read, whoever calls.
TEST(StoredTensor, ChecksDtypesAndRanksItself) {
  const auto entry = [](const char* dtype, std::vector<int64_t> shape) {
    return TensorEntry{"w", dtype, std::move(shape)};
  };
  const auto scaled = [](Elements elements, const TensorEntry& values, const TensorEntry& scales,
                         ScaleBits bits, const TensorEntry* overall = nullptr) {
    (void)StoredTensor::scaled(elements, values, {scales, bits, {1, 16}, overall});
  };
  const TensorEntry f32 = entry("F32", {4, 2}), e4m3 = entry("F8_E4M3", {4, 32}),
                    i8 = entry("I8", {4, 16}), i32 = entry("I32", {4, 4});
  EXPECT_NO_THROW(scaled(Elements::E4m3, e4m3, f32, ScaleBits::F32));
  EXPECT_NO_THROW(scaled(Elements::E2m1, i8, f32, ScaleBits::F32));
  EXPECT_NO_THROW(scaled(Elements::Int4, i32, f32, ScaleBits::F32));
  for (const auto& shape : std::vector<std::vector<int64_t>>{{}, {32}, {1, 1, 4, 32}})
    EXPECT_THROW(scaled(Elements::E4m3, entry("F8_E4M3", shape), f32, ScaleBits::F32), Error);
  for (const auto& shape : std::vector<std::vector<int64_t>>{{}, {16}, {1, 4, 16}}) {
    EXPECT_THROW(scaled(Elements::E2m1, entry("U8", shape), f32, ScaleBits::F32), Error);
    EXPECT_THROW(scaled(Elements::Int4, entry("I32", shape), f32, ScaleBits::F32), Error);
  }
  for (const auto* values : {&e4m3, &i8, &i32})
    for (const Elements elements : {Elements::E4m3, Elements::E2m1, Elements::Int4}) {
      const bool own = values == (elements == Elements::E4m3   ? &e4m3
                                  : elements == Elements::E2m1 ? &i8
                                                               : &i32);
      if (own) continue;
      EXPECT_THROW(scaled(elements, *values, f32, ScaleBits::F32), Error);
    }
  const std::pair<ScaleBits, const char*> bits[] = {{ScaleBits::F32, "F32"},
                                                    {ScaleBits::F16, "F16"},
                                                    {ScaleBits::Bf16, "BF16"},
                                                    {ScaleBits::E8m0, "F8_E8M0"},
                                                    {ScaleBits::E4m3, "F8_E4M3"}};
  for (const auto& [wanted, name] : bits)
    for (const auto& [other, dtype] : bits) {
      const TensorEntry scales = entry(dtype, {4, 2});
      const auto read = [&] { scaled(Elements::E4m3, e4m3, scales, wanted); };
      if (wanted == other) {
        EXPECT_NO_THROW(read()) << name;
      } else {
        EXPECT_THROW(read(), Error) << name << " " << dtype;
      }
    }
  for (const auto& overall :
       {entry("F16", {}), entry("F32", {0}), entry("F32", {2}), entry("F32", {1, 1})})
    EXPECT_THROW(scaled(Elements::E2m1, i8, f32, ScaleBits::F32, &overall), Error);
}

TEST(StoredTensor, BlocksOfMxfp4HoldSixteenBytes) {
  const auto u8 = [](std::vector<int64_t> shape) {
    return TensorEntry{"w", "U8", std::move(shape)};
  };
  EXPECT_NO_THROW((void)StoredTensor::mxfp4(u8({4, 16}), u8({4})));
  for (const int64_t width : {15, 17})
    EXPECT_THROW((void)StoredTensor::mxfp4(u8({4, width}), u8({4, width})), Error);
  EXPECT_THROW((void)StoredTensor::mxfp4(u8({16}), u8({})), Error);
  EXPECT_THROW((void)StoredTensor::mxfp4(u8({}), u8({})), Error);
}

TEST(Quantised, FlatTensorsAreRefused) {
  for (const char* form : {"ct channel", "fp8 undeclared rows", "int4", "nvfp4"}) {
    Model m = separate(form_called(form));
    for (auto& [name, raw] : m.tensors)
      if (name == expert_name(0, "gate_proj") || name.ends_with("0.gate_proj.weight_packed"))
        raw.shape = {count_of(raw.shape)};
    const std::string message = refusal(m, Errc::Unsupported);
    EXPECT_NE(message.find("0.gate_proj.weight"), std::string::npos) << message;
  }
}

// ---- where the config stands

TEST(Quantised, EverySpellingAndPlaceOfTheConfigIsFound) {
  const Form form = form_called("int4");
  const Model plain = separate(form);
  json nested = {{"model_type", "some_vision_model"}, {"text_config", plain.config}};
  json above = nested;
  above["quantization_config"] = form.quantization;
  above["text_config"].erase("quantization_config");
  json both = above;
  both["text_config"] = plain.config;
  json older = plain.config;
  older["compression_config"] = form.quantization;
  older["compression_config"].erase("quant_method");
  older.erase("quantization_config");
  json per_group = plain.config;
  per_group["quantization_config"]["format"] = "mixed-precision";
  per_group["quantization_config"]["config_groups"]["group_0"]["format"] = "pack-quantized";
  per_group["quantization_config"]["config_groups"]["of_activations"] = {{"weights", nullptr}};
  for (const json& config : {plain.config, nested, above, both, older, per_group}) {
    Model m = plain;
    m.config = config;
    expect_exact(m, form);
  }
  Model m = plain;
  m.config = both;
  m.config["quantization_config"]["quant_method"] = "fp8";
  expect_refused(m, "text_config.quantization_config says something else");
}

TEST(Quantised, FormsMayBeMixed) {
  // Experts in two forms, the rest of the model in others.
  Model m = separate(form_called("nvfp4"));
  const Model fp8_model = separate(form_called("modelopt fp8"));
  m.config["quantization_config"] = {{"quantization",
                                      {{"quant_algo", "MIXED_PRECISION"},
                                       {"quantized_layers",
                                        {{"a", {{"quant_algo", "NVFP4"}}},
                                         {"b", {{"quant_algo", "FP8"}}},
                                         {"c", {{"quant_algo", "W4A8_AWQ"}}}}}}},
                                     {"quant_method", "modelopt"}};
  for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
    std::erase_if(m.tensors, [&](const auto& entry) {
      return entry.first.starts_with(expert_name(0, projection));
    });
    for (const char* part : {"", "_scale"})
      m.tensors[expert_name(0, projection) + part] =
          fp8_model.tensors.at(expert_name(0, projection) + part);
  }
  std::copy_n(fp8_model.w1.begin(), 2 * kInner * kHidden, m.w1.begin());
  std::copy_n(fp8_model.w2.begin(), kInner * kHidden, m.w2.begin());
  expect_exact(m, form_called("modelopt fp8"));
  const TemporaryFolder folder;
  const auto checkpoint = m.open(folder);
  try {
    (void)checkpoint->load_layer(0, 1, 0, {}, WeightForms::Native);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_NE(std::string(e.what()).find("Load them as bf16"), std::string::npos) << e.what();
  }
}

// Stored [E, H, 2I] and [E, I, H]: blocks are of rows and columns as they are stored.
TEST(Quantised, BlocksOfTransposedExpertsFollowTheStoredRows) {
  const Form form = form_called("blocks");
  std::mt19937 rng(11);
  Model m = model_of(nullptr, rng);
  const std::string gate_up = kMlp + ".experts.gate_up_proj", down = kMlp + ".experts.down_proj";
  const Numbers w1 = form.put(m.tensors, gate_up, kExperts, kHidden, 2 * kInner, rng);
  const Numbers w2 = form.put(m.tensors, down, kExperts, kInner, kHidden, rng);
  const auto transposed = [](const Numbers& from, int64_t rows, int64_t cols) {
    Numbers to(from.size());
    for (int64_t e = 0; e < kExperts; ++e)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c)
          to[static_cast<size_t>((e * cols + c) * rows + r)] =
              from[static_cast<size_t>((e * rows + r) * cols + c)];
    return to;
  };
  const TemporaryFolder folder;
  testing::write_raw_checkpoint(folder.path(), json::object(), m.tensors);
  json layer = {{"hidden", kHidden},
                {"intermediate", kInner},
                {"num_experts", kExperts},
                {"top_k", 1},
                {"num_layers", 1},
                {"quantization_config", form.quantization},
                {"tensors",
                 {{"router", kMlp + ".gate.weight"},
                  {"fused_gate_up", gate_up},
                  {"fused_down", down},
                  {"fused_transposed", true}}}};
  testing::write_file(folder / "layer.json", layer.dump());
  const auto checkpoint = Checkpoint::open(folder.path(), folder / "layer.json");
  EXPECT_EQ(checkpoint->stored_format(0), kBlocksShown);
  const auto loaded = checkpoint->load_layer(0, 1, 0);
  expect_values(loaded.experts.w1, transposed(w1, kHidden, 2 * kInner), "w1");
  expect_values(loaded.experts.w2, transposed(w2, kInner, kHidden), "w2");
}

}  // namespace
}  // namespace switchyard
