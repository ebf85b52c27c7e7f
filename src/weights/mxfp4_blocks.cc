// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/mxfp4_blocks.cc
#include "weights/mxfp4_blocks.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/checked.h"

namespace switchyard {
namespace {

constexpr int kTop = 8, kBottom = -9;  // powers of two of f8_e4m3: of 256 and of its last bit
static_assert(kTop - kBottom + 1 == BitRange::kMost);
constexpr int kLeastNormal = -126;  // of f32
constexpr uint8_t kNaNExponent = 255;
constexpr int kExponentBias = 127;

// Magnitudes of e2m1 and the powers of two of their last and their leading bit.
struct Magnitude {
  float value;
  int lowest, highest;
};
constexpr std::array<Magnitude, 8> kMagnitudes = {{{0, 0, 0},
                                                   {0.5f, -1, -1},
                                                   {1, 0, 0},
                                                   {1.5f, -1, 0},
                                                   {2, 1, 1},
                                                   {3, 0, 1},
                                                   {4, 2, 2},
                                                   {6, 1, 2}}};

// By the power of two that a code is multiplied by. Beyond these it is that of a group of zeros.
constexpr int kLeastPower = kBottom - 2, kMostPower = kTop + 1;

const F8OfE2m1& codes_of_power(int power) {
  static const auto all = [] {
    std::array<F8OfE2m1, kMostPower - kLeastPower + 1> codes;
    for (int p = kLeastPower; p <= kMostPower; ++p)
      for (size_t code = 0; code < 16; ++code) {
        const float value = std::ldexp(kMagnitudes[code & 7].value, p);
        codes[static_cast<size_t>(p - kLeastPower)][code] = F8E4m3(code & 8 ? -value : value);
      }
    return codes;
  }();
  return all[static_cast<size_t>(std::clamp(power, kLeastPower, kMostPower) - kLeastPower)];
}

// A block inside rows: the one that begins there.
struct Place {
  int64_t row, rows, col, cols;
};

[[noreturn]] void refuse(const Mxfp4Rows& m, const Place& p, const BitRange& bits) {
  const int64_t rows_of_matrix = m.src.shape()[m.src.shape().size() - 2];
  const int64_t first = (m.first + p.row * m.step) % rows_of_matrix;
  throw Error(Errc::Unsupported,
              cat("checkpoint: tensor ", m.name, ", rows ", first, " to ",
                  first + (p.rows - 1) * m.step, m.step == 2 ? " (every second)" : "", ", columns ",
                  p.col, " to ", p.col + p.cols - 1, ": bits=", bits.count(), ", of 2^",
                  bits.lowest(), " to 2^", bits.highest(), ", a block of f8_e4m3 holds ",
                  BitRange::kMost, " exactly. Load the layer as bf16 (--weights bf16)."));
}

// The numbers of a block, group by group.
BitRange bits_of(const Mxfp4Rows& m, const Place& p) {
  BitRange bits;
  std::vector<uint8_t> codes(static_cast<size_t>(p.cols)),
      exponents(static_cast<size_t>(p.cols / kMxGroup));
  for (int64_t r = p.row; r < p.row + p.rows; ++r) {
    const int64_t at = (m.first + r * m.step) * m.cols + p.col;
    m.src.read_e2m1(codes, at);
    m.src.read_exponents(exponents, at / kMxGroup);
    for (size_t g = 0; g < exponents.size(); ++g)
      bits.add(exponents[g], std::span(codes).subspan(g * kMxGroup, kMxGroup));
  }
  return bits;
}

// Rows that share their scales: visit(first row, rows, columns of a block).
template <class Visit>
void each_row_of_blocks(const Mxfp4Rows& m, ScaleBlock block, Visit visit) {
  const int64_t most = std::min(block.rows, m.num);
  for (int64_t row = 0; row < m.num; row += most)
    visit(row, std::min(most, m.num - row), std::min(block.cols, m.cols));
}

}  // namespace

void BitRange::add_bits(int lowest, int highest) {
  lowest_ = std::min(lowest_, lowest);
  highest_ = std::max(highest_, highest);
}

void BitRange::add(uint8_t exponent, std::span<const uint8_t> codes) {
  if (exponent == kNaNExponent) return;
  unsigned seen = 0;
  for (const uint8_t code : codes) seen |= 1u << (code & 7);
  const int e = exponent - kExponentBias;
  for (size_t i = 1; i < kMagnitudes.size(); ++i)
    if (seen >> i & 1) add_bits(e + kMagnitudes[i].lowest, e + kMagnitudes[i].highest);
}

void BitRange::add_every_code(uint8_t exponent) {
  if (exponent != kNaNExponent)
    add_bits(exponent - kExponentBias - 1, exponent - kExponentBias + 2);
}

// The least normal scale is no exception to the rule: the last bit of MXFP4 is 2^-128, which is
// 2^-2 of it.
int BitRange::scale_exponent() const {
  return count() == 0 ? 0 : std::max(highest_ - kTop, kLeastNormal);
}

const F8OfE2m1& f8_of_e2m1(uint8_t exponent, int scale_exponent) {
  static const auto nan = [] {
    F8OfE2m1 codes;
    codes.fill(F8E4m3(NAN));
    return codes;
  }();
  return exponent == kNaNExponent ? nan : codes_of_power(exponent - kExponentBias - scale_exponent);
}

void require_f8_blocks(const Mxfp4Rows& m, ScaleBlock block) {
  std::vector<uint8_t> exponents(static_cast<size_t>(m.cols / kMxGroup));
  each_row_of_blocks(m, block, [&](int64_t row, int64_t rows, int64_t width) {
    std::vector<BitRange> bits(static_cast<size_t>(ceil_div(m.cols, width)));
    for (int64_t r = row; r < row + rows; ++r) {
      m.src.read_exponents(exponents, (m.first + r * m.step) * m.cols / kMxGroup);
      for (size_t g = 0; g < exponents.size(); ++g)
        bits[g * kMxGroup / static_cast<size_t>(width)].add_every_code(exponents[g]);
    }
    for (size_t b = 0; b < bits.size(); ++b) {
      if (bits[b].fits()) continue;
      const int64_t col = static_cast<int64_t>(b) * width;
      const Place place{row, rows, col, std::min(width, m.cols - col)};
      const BitRange exact = bits_of(m, place);
      if (!exact.fits()) refuse(m, place, exact);
    }
  });
}

void read_f8_blocks(std::span<F8E4m3> codes, std::span<float> scales, const Mxfp4Rows& m,
                    ScaleBlock block) {
  const auto cols = static_cast<size_t>(m.cols), groups = cols / kMxGroup;
  // Codes of e2m1 stand where those of f8_e4m3 will.
  const std::span all(reinterpret_cast<uint8_t*>(codes.data()), codes.size());
  std::vector<uint8_t> exponents;
  each_row_of_blocks(m, block, [&](int64_t row, int64_t rows, int64_t width) {
    const auto of_blocks = all.subspan(static_cast<size_t>(row) * cols);
    exponents.resize(static_cast<size_t>(rows) * groups);
    std::vector<BitRange> bits(static_cast<size_t>(ceil_div(m.cols, width)));
    const auto block_of = [&](size_t group) {
      return group * kMxGroup / static_cast<size_t>(width);
    };
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      const int64_t at = (m.first + (row + static_cast<int64_t>(r)) * m.step) * m.cols;
      const auto of_row = of_blocks.subspan(r * cols, cols);
      m.src.read_e2m1(of_row, at);
      m.src.read_exponents(std::span(exponents).subspan(r * groups, groups), at / kMxGroup);
      for (size_t g = 0; g < groups; ++g)
        bits[block_of(g)].add(exponents[r * groups + g], of_row.subspan(g * kMxGroup, kMxGroup));
    }
    for (size_t b = 0; b < bits.size(); ++b) {
      const int64_t col = static_cast<int64_t>(b) * width;
      if (!bits[b].fits()) refuse(m, {row, rows, col, std::min(width, m.cols - col)}, bits[b]);
      scales[b] = std::ldexp(1.0f, bits[b].scale_exponent());
    }
    scales = scales.subspan(bits.size());
    for (size_t i = 0; i < exponents.size(); ++i) {
      const auto& table = f8_of_e2m1(exponents[i], bits[block_of(i % groups)].scale_exponent());
      for (uint8_t& code : of_blocks.subspan(i * kMxGroup, kMxGroup)) code = table[code].bits();
    }
  });
}

}  // namespace switchyard
