// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/mxfp4_blocks.h -- matrices of MXFP4 in blocks of f8_e4m3, number by number the same.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "switchyard/block_scales.h"
#include "weights/stored_tensor.h"

namespace switchyard {

// The bits of numbers that are to share a scale: from the leading one of the largest to the last one
// of the finest. Codes are e2m1, one a byte; exponents e8m0. Zeros and NaN (exponent 255) have none.
//
//     f8_e4m3 holds e2m1 * 2^(exponent - 127) / 2^t for all of them
//         iff   highest - t <= 8  and  lowest - t >= -9    at most 384; subnormals end at 2^-9
//     there is such a t   iff   highest - lowest < 18
//
// Two significant bits, which is what e2m1 has, fit everywhere between.
class BitRange {
 public:
  static constexpr int kMost = 18;  // 2^8 to 2^-9

  void add(uint8_t exponent, std::span<const uint8_t> codes);
  // As if all codes were there.
  void add_every_code(uint8_t exponent);

  int lowest() const { return lowest_; }  // the powers of two
  int highest() const { return highest_; }
  int count() const { return highest_ < lowest_ ? 0 : highest_ - lowest_ + 1; }
  bool fits() const { return count() <= kMost; }
  // t of the scale 2^t: the largest number is at the top of f8_e4m3, but a scale is never subnormal. 0
  // for no bits. Only of what fits.
  int scale_exponent() const;

 private:
  void add_bits(int lowest, int highest);

  int lowest_ = 1 << 20, highest_ = -(1 << 20);  // further than any number
};

// By the code of e2m1: what e2m1 * 2^(exponent - 127) / 2^scale_exponent is in f8_e4m3. NaN for exponent
// 255.
using F8OfE2m1 = std::array<F8E4m3, 16>;
const F8OfE2m1& f8_of_e2m1(uint8_t exponent, int scale_exponent);

// Rows of an expert's matrix in a tensor of MXFP4: row r is row first + r * step of all that it has.
struct Mxfp4Rows {
  const StoredTensor& src;
  std::string name;  // of the matrix, and which expert's it is
  int64_t first, step;
  int64_t num, cols;
};

// Throws Error(Unsupported) that names the first block whose bits do not fit. Reads scales, and codes
// where scales alone do not tell.
void require_f8_blocks(const Mxfp4Rows& rows, ScaleBlock block);
// Codes [num, cols] and the scales of their blocks, in row-major order. Throws as require_f8_blocks.
void read_f8_blocks(std::span<F8E4m3> codes, std::span<float> scales, const Mxfp4Rows& rows,
                    ScaleBlock block);

}  // namespace switchyard
