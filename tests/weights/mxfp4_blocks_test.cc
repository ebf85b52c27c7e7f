// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/mxfp4_blocks_test.cc -- MXFP4 in blocks of f8_e4m3: every number is the one of the file,
// or the block is refused by its name.
#include "weights/mxfp4_blocks.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "base/shape_text.h"
#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/buffer.h"
#include "testing/error_of.h"
#include "testing/f8_e4m3.h"
#include "testing/raw_checkpoint.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using nlohmann::json;
using testing::Buffer;
using testing::Raw;
using testing::RawTensors;
using testing::TemporaryFolder;

// ---- one block

double e2m1(unsigned code) {
  static const double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -kValues[code & 7] : kValues[code & 7];
}

double number(unsigned code, int exponent) {
  return std::ldexp(e2m1(code), exponent - 127);
}

bool is_e4m3(double value) {
  static const auto all = [] {
    std::set<double> values;
    for (int bits = 0; bits < 0x7f; ++bits)
      values.insert(testing::e4m3_value(static_cast<uint8_t>(bits)));
    return values;
  }();
  return all.contains(std::abs(value));
}

double decoded(uint8_t code, int exponent, int scale_exponent) {
  const F8E4m3 f8 = f8_of_e2m1(static_cast<uint8_t>(exponent), scale_exponent)[code];
  return std::ldexp(testing::e4m3_value(f8.bits()), scale_exponent);
}

// Two numbers stand for a block: the largest and the finest, or neither.
TEST(BitRange, FitsExactlyWhereAScaleOfFp32HoldsBothNumbers) {
  for (const int first : {0, 1, 127, 253, 254})
    for (int second = std::max(0, first - 20); second <= std::min(254, first + 20); ++second)
      for (uint8_t a = 0; a < 8; ++a)
        for (uint8_t b = 0; b < 8; ++b) {
          BitRange bits;
          bits.add(static_cast<uint8_t>(first), std::span(&a, 1));
          bits.add(static_cast<uint8_t>(second), std::span(&b, 1));
          const double x = number(a, first), y = number(b, second);
          bool exists = false;
          for (int t = -149; t <= 127 && !exists; ++t)
            exists = is_e4m3(std::ldexp(x, -t)) && is_e4m3(std::ldexp(y, -t));
          ASSERT_EQ(bits.fits(), exists) << x << " and " << y;
          if (!exists) continue;
          const int t = bits.scale_exponent();
          ASSERT_TRUE(t >= -126 && t <= 127) << t;
          ASSERT_EQ(decoded(a, first, t), x) << t;
          ASSERT_EQ(decoded(b, second, t), y) << t;
        }
}

TEST(BitRange, OfEveryCodeSpansFifteenExponents) {
  std::array<uint8_t, 16> codes;
  for (uint8_t i = 0; i < 16; ++i) codes[i] = i;
  for (int least = 0; least <= 254; ++least)
    for (int most = least; most <= std::min(254, least + 16); ++most) {
      BitRange bits, without_codes;
      for (int e = least; e <= most; ++e) {
        bits.add(static_cast<uint8_t>(e), codes);
        without_codes.add_every_code(static_cast<uint8_t>(e));
      }
      ASSERT_EQ(bits.fits(), most - least < 15) << least << " to " << most;
      ASSERT_EQ(bits.lowest(), without_codes.lowest());
      ASSERT_EQ(bits.highest(), without_codes.highest());
      if (!bits.fits()) continue;
      const int t = bits.scale_exponent();
      for (int e = least; e <= most; ++e)
        for (const uint8_t code : codes) {
          const double value = decoded(code, e, t);
          ASSERT_EQ(std::bit_cast<uint64_t>(value), std::bit_cast<uint64_t>(number(code, e)))
              << "code " << int{code} << ", exponent " << e << ", scale 2^" << t;
        }
    }
}

TEST(BitRange, ZerosAndWhatIsNoNumberAskForNothing) {
  BitRange bits;
  const std::array<uint8_t, 2> zeros{0, 8};
  bits.add(0, zeros);
  bits.add(254, zeros);
  bits.add(255, std::array<uint8_t, 3>{1, 7, 15});
  bits.add_every_code(255);
  EXPECT_EQ(bits.count(), 0);
  EXPECT_TRUE(bits.fits());
  EXPECT_EQ(bits.scale_exponent(), 0);
  for (const uint8_t exponent : {0, 127, 254}) {
    EXPECT_EQ(f8_of_e2m1(exponent, 0)[0].bits(), 0x00);
    EXPECT_EQ(f8_of_e2m1(exponent, 0)[8].bits(), 0x80);
  }
  for (const F8E4m3 code : f8_of_e2m1(255, 0)) EXPECT_EQ(code.bits(), 0x7f);
}

// ---- layers of a file

// Neither is a multiple of 128, both are of a group; blocks of W1 have gcd(128, 160) rows.
constexpr int64_t kHidden = 288, kInner = 160, kExperts = 3;
constexpr ScaleBlock kBlockOfW1{32, 128}, kBlockOfW2{128, 128};
const std::string kMlp = "model.layers.0.mlp";

// A matrix of MXFP4.
struct Matrix {
  Matrix(int64_t n, int64_t k, std::mt19937& rng)
      : cols(k), codes(static_cast<size_t>(n * k / 2)), exponents(static_cast<size_t>(n * k / 32)) {
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(rng());
    for (uint8_t& e : exponents) e = static_cast<uint8_t>(120 + rng() % 15);
  }
  uint8_t& exponent(int64_t row, int64_t group) {
    return exponents[static_cast<size_t>(row * cols / 32 + group)];
  }
  void fill_group(int64_t row, int64_t group, uint8_t code) {
    std::fill_n(codes.begin() + (row * cols + group * 32) / 2, 16,
                static_cast<uint8_t>(code << 4 | code));
  }

  int64_t cols;
  std::vector<uint8_t> codes, exponents;
};

struct Layout {
  const char* name;
  json config;
  bool fused;
  std::string codes, scales;  // suffixes
  std::string codes_dtype, scales_dtype;
};

std::vector<Layout> layouts() {
  const json sizes = {
      {"hidden_size", kHidden}, {"num_experts_per_tok", 2}, {"num_hidden_layers", 1}};
  json qwen = sizes, oss = sizes, deepseek, packed;
  qwen.update({{"model_type", "qwen3_moe"},
               {"num_experts", kExperts},
               {"moe_intermediate_size", kInner},
               {"norm_topk_prob", true},
               {"hidden_act", "silu"}});
  oss.update({{"model_type", "gpt_oss"},
              {"num_local_experts", kExperts},
              {"intermediate_size", kInner},
              {"swiglu_limit", 7.0},
              {"quantization_config", {{"quant_method", "mxfp4"}}}});
  deepseek = packed = qwen;
  deepseek["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  packed["quantization_config"] = {
      {"quant_method", "compressed-tensors"},
      {"format", "mxfp4-pack-quantized"},
      {"config_groups",
       {{"group_0",
         {{"weights",
           {{"num_bits", 4}, {"type", "float"}, {"strategy", "group"}, {"group_size", 32}}}}}}}};
  return {{"InTurns", oss, true, "_blocks", "_scales", "U8", "U8"},
          {"DeepSeek", deepseek, false, "", ".scale", "I8", "F8_E8M0"},
          {"Packed", packed, false, "_packed", "_scale", "U8", "U8"}};
}

// Tensors of a layer. Matrices are those of an expert: W1 [2I, H] as the file has its rows, W2.
struct Model {
  explicit Model(Layout as, unsigned seed = 1) : layout(std::move(as)) {
    std::mt19937 rng(seed);
    for (int64_t e = 0; e < kExperts; ++e) {
      w1.emplace_back(2 * kInner, kHidden, rng);
      w2.emplace_back(kHidden, kInner, rng);
    }
  }

  void write(const std::filesystem::path& folder,
             const std::function<void(RawTensors&)>& change = {}) const {
    RawTensors all = tensors();
    if (change) change(all);
    testing::write_raw_checkpoint(folder, layout.config, all);
  }

  Layout layout;
  std::vector<Matrix> w1, w2;

 private:
  static Raw bf16(Shape shape, uint64_t seed) {
    const auto values = testing::random_bf16(shape, seed);
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    const auto dims = extents(shape);
    return {"BF16", {dims.begin(), dims.end()}, {bytes, bytes + values.view().bytes()}};
  }
  void add(RawTensors& all, const std::string& name, int64_t rows,
           const std::vector<std::pair<const Matrix*, int64_t>>& parts) const {
    const int64_t k = parts.front().first->cols;
    Raw codes{layout.codes_dtype, {rows, k / 2}, {}},
        scales{layout.scales_dtype, {rows, k / 32}, {}};
    if (layout.fused) {
      codes.shape = {kExperts, rows, k / 32, 16};
      scales.shape = {kExperts, rows, k / 32};
    }
    for (const auto& [m, first] : parts) {
      const auto part = [rows](const std::vector<uint8_t>& from, int64_t at, int64_t each,
                               std::vector<uint8_t>& to) {
        to.insert(to.end(), from.begin() + at * each, from.begin() + (at + rows) * each);
      };
      part(m->codes, first, k / 2, codes.bytes);
      part(m->exponents, first, k / 32, scales.bytes);
    }
    const bool of_module = layout.scales.starts_with(".");
    all[name + layout.codes] = codes;
    all[(of_module ? name.substr(0, name.rfind('.')) : name) + layout.scales] = scales;
  }
  RawTensors tensors() const {
    RawTensors all;
    if (!layout.fused) {
      all[kMlp + ".gate.weight"] = bf16({kExperts, kHidden}, 3);
      for (size_t e = 0; e < kExperts; ++e) {
        const std::string at = kMlp + ".experts." + std::to_string(e) + ".";
        add(all, at + "gate_proj.weight", kInner, {{&w1[e], 0}});
        add(all, at + "up_proj.weight", kInner, {{&w1[e], kInner}});
        add(all, at + "down_proj.weight", kHidden, {{&w2[e], 0}});
      }
      return all;
    }
    all[kMlp + ".router.weight"] = bf16({kExperts, kHidden}, 3);
    all[kMlp + ".router.bias"] = bf16({kExperts}, 4);
    all[kMlp + ".experts.gate_up_proj_bias"] = bf16({kExperts, 2 * kInner}, 5);
    all[kMlp + ".experts.down_proj_bias"] = bf16({kExperts, kHidden}, 6);
    std::vector<std::pair<const Matrix*, int64_t>> gate_up, down;
    for (size_t e = 0; e < kExperts; ++e) {
      gate_up.emplace_back(&w1[e], 0);
      down.emplace_back(&w2[e], 0);
    }
    add(all, kMlp + ".experts.gate_up_proj", 2 * kInner, gate_up);
    add(all, kMlp + ".experts.down_proj", kHidden, down);
    return all;
  }
};

float scale_of(const BlockScales& s, int64_t e, int64_t row, int64_t col) {
  const ConstTensor& v = s.values;
  return v.as<float>()[(e * v.dim(1) + row / s.block.rows) * v.dim(2) + col / s.block.cols];
}

// Bit by bit, but for which NaN it is.
void expect_same_numbers(ConstTensor f8, const BlockScales& scales, ConstTensor bf16,
                         const std::string& what) {
  ASSERT_EQ(f8.dtype, DType::F8E4m3) << what;
  ASSERT_EQ(f8.shape, bf16.shape) << what;
  ASSERT_EQ(scales.values.shape, scales_shape(f8.shape, scales.block)) << what;
  for (int64_t i = 0; i < scales.values.count(); ++i) {
    const float scale = scales.values.as<float>()[i];
    int exponent = 0;
    ASSERT_TRUE(std::isnormal(scale) || scale == 0) << what << ": " << scale;  // 0: no expert's
    ASSERT_TRUE(scale == 0 || std::frexp(scale, &exponent) == 0.5f) << what << ": " << scale;
  }
  for (int64_t i = 0; i < f8.count(); ++i) {
    const int64_t k = f8.dim(2), row = i / k % f8.dim(1), e = i / (f8.dim(1) * k);
    const float value = static_cast<float>(f8.as<F8E4m3>()[i]) * scale_of(scales, e, row, i % k);
    const auto right = static_cast<float>(bf16.as<Bf16>()[i]);
    if (std::isnan(value) && std::isnan(right)) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(right))
        << what << ", expert " << e << ", row " << row << ", column " << i % k << ": " << value
        << ", bf16 " << right;
  }
}

void expect_exact(const Checkpoint& checkpoint, const std::string& what) {
  EXPECT_EQ(checkpoint.stored_format(0), "mxfp4") << what;
  EXPECT_EQ(checkpoint.native_format(0), (ExpertFormat{DType::F8E4m3, kBlockOfW1, kBlockOfW2}));
  // Of two ranks the second has expert 2 and a place that is none's.
  for (const auto& [num_ranks, rank] : {std::pair{1, 0}, {2, 0}, {2, 1}}) {
    const auto bf16 = checkpoint.load_layer(0, num_ranks, rank);
    const auto f8 = checkpoint.load_layer(0, num_ranks, rank, {}, WeightForms::Native);
    validate(f8, checkpoint.config(0), num_ranks);
    EXPECT_EQ(format_of(f8.experts), checkpoint.native_format(0)) << what;
    expect_same_numbers(f8.experts.w1, f8.experts.w1_scales, bf16.experts.w1, what + " w1");
    expect_same_numbers(f8.experts.w2, f8.experts.w2_scales, bf16.experts.w2, what + " w2");
    for (const auto& [a, b] :
         {std::pair{f8.experts.b1, bf16.experts.b1}, {f8.experts.b2, bf16.experts.b2}}) {
      ASSERT_EQ(a.present(), b.present()) << what;
      if (!a.present()) continue;
      EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())), 0) << what;
    }
  }
}

void expect_exact(const Model& m, const std::string& what) {
  const TemporaryFolder folder;
  m.write(folder.path());
  expect_exact(*Checkpoint::open(folder.path()), what);
}

class Mxfp4Layer : public ::testing::TestWithParam<Layout> {
 protected:
  // Row of W1 in the file that is row i of its gate.
  static int64_t gate_row(int64_t i) { return GetParam().fused ? 2 * i : i; }
};
INSTANTIATE_TEST_SUITE_P(All, Mxfp4Layer, ::testing::ValuesIn(layouts()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Mxfp4Layer, NumbersAreThoseOfBf16AtBothEndsOfTheExponents) {
  for (const int least : {0, 5, 120, 240}) {  // 2^-127 on, and up to 2^127
    Model m(GetParam());
    for (auto* matrices : {&m.w1, &m.w2})
      for (Matrix& matrix : *matrices)
        for (uint8_t& e : matrix.exponents) e = static_cast<uint8_t>(e - 120 + least);
    expect_exact(m, "from " + std::to_string(least));
  }
}

TEST_P(Mxfp4Layer, ZerosOfAnyExponentAndGroupsThatAreNoNumberStay) {
  Model m(GetParam());
  std::mt19937 rng(2);
  for (auto* matrices : {&m.w1, &m.w2})
    for (Matrix& matrix : *matrices)
      for (size_t g = 0; g < matrix.exponents.size(); ++g) {
        if (rng() % 3 == 0) {
          matrix.exponents[g] = static_cast<uint8_t>(rng() % 255);
          for (size_t i = 0; i < 16; ++i) matrix.codes[g * 16 + i] &= 0x88;  // signs
        } else if (rng() % 50 == 0) {
          matrix.exponents[g] = 255;
        }
      }
  // And a block of nothing else.
  for (int64_t row = 0; row < 128; ++row)
    for (int64_t group = 0; group < 4; ++group) m.w2[1].fill_group(row, group, 0);
  expect_exact(m, "zeros");
}

// One group of 6 * 2^(e - 127), one of 0.5 * 2^(e - 127): 18 bits are 15 exponents apart.
TEST_P(Mxfp4Layer, OneMoreExponentIsRefusedByTensorExpertAndBlock) {
  const auto with_range = [](int exponents, int64_t other_row) {
    Model m(GetParam());
    for (uint8_t& e : m.w1[1].exponents) e = 110;
    m.w1[1].exponent(gate_row(33), 5) = static_cast<uint8_t>(110 + exponents - 1);
    m.w1[1].fill_group(gate_row(33), 5, 7);
    m.w1[1].fill_group(gate_row(other_row), 4, 1);
    return m;
  };
  expect_exact(with_range(15, 63), "the limit");
  const Model beyond = with_range(16, 63);
  const TemporaryFolder folder;
  beyond.write(folder.path());
  const auto checkpoint = Checkpoint::open(folder.path());
  bool begun = false;
  const Error e = testing::error_of([&] {
    (void)checkpoint->load_layer(
        0, 1, 0, [&](int64_t, int64_t) { begun = true; }, WeightForms::Native);
  });
  EXPECT_EQ(e.code(), Errc::Unsupported);
  EXPECT_FALSE(begun);
  const std::string place = GetParam().fused
                                ? "gate_up_proj, expert 1, rows 64 to 126 (every second)"
                                : "experts.1.gate_proj.weight, rows 32 to 63";
  EXPECT_EQ(std::string(e.what()).find("checkpoint: tensor " + kMlp), 0u) << e.what();
  for (const std::string& says :
       {place,
        std::string(", columns 128 to 255: bits=19, of 2^-18 to 2^0, a block of f8_e4m3 holds 18"),
        std::string("--weights bf16")})
    EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what() << "\n" << says;
  EXPECT_NO_THROW((void)checkpoint->load_layer(0, 1, 0));
  // The rank that owns expert 2 alone does not care.
  EXPECT_NO_THROW((void)checkpoint->load_layer(0, 3, 2, {}, WeightForms::Native));
}

TEST_P(Mxfp4Layer, BitsCountNotExponents) {
  Model m(GetParam());
  // 0.5 * 2^17 and 4 * 2^0 are 2^16 and 2^2: 18 exponents, 15 bits.
  for (int64_t row = 0; row < kHidden; ++row)
    for (int64_t group = 0; group < kInner / 32; ++group) {
      m.w2[2].fill_group(row, group, row % 2 == 0 ? 6 : 1);
      m.w2[2].exponent(row, group) = static_cast<uint8_t>(100 + row % 2 * 17);
    }
  expect_exact(m, "coarse codes");
}

// Blocks do not see each other: any exponents, as long as each block's are near.
TEST_P(Mxfp4Layer, EveryBlockHasItsOwnScale) {
  Model m(GetParam());
  for (int64_t row = 0; row < kHidden; ++row)
    for (int64_t group = 0; group < kInner / 32; ++group) {
      const int block = static_cast<int>(row / 128 * 2 + group / 4);
      m.w2[0].exponent(row, group) =
          static_cast<uint8_t>(40 * block + m.w2[0].exponent(row, group) - 120);
    }
  for (int64_t i = 0; i < kInner; ++i)
    for (int64_t group = 0; group < kHidden / 32; ++group) {
      const int block = static_cast<int>(i / 32 * 3 + group / 4);  // of the gate's rows alone
      uint8_t& e = m.w1[2].exponent(gate_row(i), group);
      e = static_cast<uint8_t>(16 * block + e - 120);
    }
  expect_exact(m, "blocks");
}

// Whatever bytes a file has: the numbers of bf16, or a refusal.
TEST_P(Mxfp4Layer, RandomBytesAreExactOrRefused) {
  int refused = 0;
  for (unsigned seed = 0; seed < 24; ++seed) {
    Model m(GetParam(), seed);
    std::mt19937 rng(seed);
    for (unsigned n = 0; n < seed; ++n) {
      auto& matrices = rng() % 2 == 0 ? m.w1 : m.w2;
      auto& exponents = matrices[rng() % kExperts].exponents;
      exponents[rng() % exponents.size()] = static_cast<uint8_t>(115 + rng() % 22);
    }
    const TemporaryFolder folder;
    m.write(folder.path());
    const auto checkpoint = Checkpoint::open(folder.path());
    try {
      (void)checkpoint->load_layer(0, 1, 0, {}, WeightForms::Native);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("--weights bf16"), std::string::npos) << e.what();
      ++refused;
      continue;
    }
    expect_exact(*checkpoint, "seed " + std::to_string(seed));
  }
  EXPECT_TRUE(refused > 0 && refused < 24) << refused;
}

TEST_P(Mxfp4Layer, EveryShapeIsCheckedBeforeABlockIsRead) {
  const Model m(GetParam());
  std::vector<std::string> names;
  {
    const TemporaryFolder folder;
    m.write(folder.path(), [&](auto& all) {
      for (const auto& [name, raw] : all)
        if (raw.dtype != "BF16") names.push_back(name);
    });
  }
  for (const std::string& name : names)
    for (size_t dim = 0; dim < (GetParam().fused ? 3u : 2u); ++dim)
      for (const int by : {-1, 1}) {
        const TemporaryFolder folder;
        m.write(folder.path(), [&](auto& all) {
          Raw& raw = all.at(name);
          raw.shape[dim] += by;
          int64_t count = 1;
          for (const int64_t extent : raw.shape) count *= extent;
          raw.bytes.resize(static_cast<size_t>(count), 120);
        });
        const auto checkpoint = Checkpoint::open(folder.path());
        const Error e = testing::error_of(
            [&] { (void)checkpoint->load_layer(0, 1, 0, {}, WeightForms::Native); });
        EXPECT_EQ(std::string(e.what()).find("--weights bf16"), std::string::npos)
            << name << ": " << e.what();
      }
}

TEST_P(Mxfp4Layer, RunsWithinTheBoundOfFp8AndItsOracleIsThatOfBf16) {
  Model m(GetParam());
  for (auto* matrices : {&m.w1, &m.w2})
    for (Matrix& matrix : *matrices)
      for (uint8_t& e : matrix.exponents) e = static_cast<uint8_t>(e % 4 + 119);
  const TemporaryFolder folder;
  m.write(folder.path());
  const auto checkpoint = Checkpoint::open(folder.path());
  const MoeConfig c = checkpoint->config(0);
  const auto bf16 = checkpoint->load_layer(0, 1, 0);
  const auto f8 = checkpoint->load_layer(0, 1, 0, {}, WeightForms::Native);
  const auto hidden = testing::random_bf16({40, kHidden}, 5);
  Buffer<double> expected({40, kHidden}), of_f8({40, kHidden});
  oracle_forward(expected.view(), c, bf16, hidden.view());
  oracle_forward(of_f8.view(), c, f8, hidden.view());
  for (int64_t i = 0; i < expected.count(); ++i)  // sums in another order
    ASSERT_NEAR(of_f8[i], expected[i], 1e-9 * (1 + std::abs(expected[i]))) << i;
  for (const char* strategy : {"contiguous", "masked"}) {
    Buffer<Bf16> output({40, kHidden});
    LayerOptions options;
    options.strategy = strategy;
    const auto layer = MoeLayer::create(c, f8, options);
    layer->forward({.output = output.view(), .hidden = hidden.view()});
    layer->wait();
    const auto d = compare(std::as_const(output).view(), expected.view());
    EXPECT_GT(d.calc_diff, 0) << strategy;  // rows were quantised
    EXPECT_LE(d.calc_diff, 3e-3) << strategy;
  }
}

}  // namespace
}  // namespace switchyard
