// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/block_scales.h -- public: matrices of f8_e4m3 with a scale for each block.
#pragma once

#include <cstdint>
#include <limits>

#include "switchyard/tensor.h"

namespace [[gnu::visibility("default")]] switchyard {

/// Elements of a row that share a scale, and elements of an inner dimension that are summed before
/// their scales multiply them.
inline constexpr int64_t kQuantGroup = 128;

/// The values of a matrix that share a scale, fewer at its edges. {128, 128} are DeepSeek's blocks of
/// weights, {1, 128} groups along a row, {1, kWhole} a row (of weights: per channel; of activations:
/// per token), {kWhole, kWhole} the whole matrix.
struct ScaleBlock {
  static constexpr int64_t kWhole = std::numeric_limits<int64_t>::max();
  int64_t rows = 128, cols = 128;
  bool operator==(const ScaleBlock&) const = default;
};

/// What the numbers of an f8_e4m3 matrix [N, K], or of each matrix of [E, N, K], are multiplied by.
struct BlockScales {
  ConstTensor values{};  // f32, of scales_shape(matrix, block)
  ScaleBlock block{};

  bool present() const { return values.present(); }
  bool operator==(const BlockScales&) const = default;
};

/// [ceil(N / rows), ceil(K / cols)], or [E, ...]: a scale for each block.
inline Shape scales_shape(const Shape& matrix, ScaleBlock block) {
  const auto blocks = [](int64_t extent, int64_t size) {
    return extent / size + (extent % size != 0);
  };
  if (matrix.rank() == 2) return {blocks(matrix[0], block.rows), blocks(matrix[1], block.cols)};
  return {matrix[0], blocks(matrix[1], block.rows), blocks(matrix[2], block.cols)};
}

}  // namespace switchyard
