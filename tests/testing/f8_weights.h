// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/f8_weights.h -- experts of bf16 as f8_e4m3, as whoever publishes a checkpoint makes
// them.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "switchyard/weights.h"
#include "testing/buffer.h"

namespace switchyard::testing {

struct F8Matrix {
  Buffer<F8E4m3> codes;
  Buffer<float> scales;
  ScaleBlock block;

  BlockScales view_of_scales() const { return {scales.view(), block}; }
};

// Of bf16 [E, N, K]: a scale for each block, its largest magnitude over 448.
inline F8Matrix f8_matrix(ConstTensor values, ScaleBlock block) {
  const Shape all = scales_shape(values.shape, block);
  F8Matrix f{Buffer<F8E4m3>(values.shape), Buffer<float>(all), block};
  const int64_t n = values.dim(1), k = values.dim(2);
  const auto scale_at = [&](int64_t i) -> float& {
    const int64_t e = i / (n * k), row = i / k % n, col = i % k;
    const int64_t in_rows = block.rows == ScaleBlock::kWhole ? 0 : row / block.rows;
    const int64_t in_cols = block.cols == ScaleBlock::kWhole ? 0 : col / block.cols;
    return f.scales[(e * all[1] + in_rows) * all[2] + in_cols];
  };
  std::fill_n(f.scales.data(), f.scales.count(), 1e-4f / 448);
  for (int64_t i = 0; i < values.count(); ++i)
    scale_at(i) = std::max(scale_at(i), std::abs(static_cast<float>(values.as<Bf16>()[i])) / 448);
  for (int64_t i = 0; i < values.count(); ++i)
    f.codes[i] = F8E4m3(static_cast<float>(values.as<Bf16>()[i]) / scale_at(i));
  return f;
}

// The layer with its routed experts in f8_e4m3. Owns them, and keeps the rest.
inline LayerWeights f8_weights(const LayerWeights& bf16, ScaleBlock w1, ScaleBlock w2) {
  struct Owned {
    F8Matrix w1, w2;
    LayerWeights rest;
  };
  const auto owned = std::make_shared<const Owned>(
      Owned{f8_matrix(bf16.experts.w1, w1), f8_matrix(bf16.experts.w2, w2), bf16});
  LayerWeights weights = bf16;
  weights.experts.w1 = owned->w1.codes.view();
  weights.experts.w2 = owned->w2.codes.view();
  weights.experts.w1_scales = owned->w1.view_of_scales();
  weights.experts.w2_scales = owned->w2.view_of_scales();
  weights.owner = owned;
  return weights;
}

}  // namespace switchyard::testing
