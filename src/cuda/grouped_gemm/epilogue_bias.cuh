// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/epilogue_bias.cuh -- adds an expert's bias to its sums.
#pragma once

#include "cuda/grouped_gemm/fragment.cuh"
#include "ops/expert_ops.h"

namespace switchyard::cuda {

struct AddBias {
  const float* bias;  // [E, n] or null

  static AddBias of(const GroupedGemm& g) { return {g.bias.as<float>()}; }

  template <int kSums>
  __device__ void operator()(const Fragment<kSums>& f, const OutputTile& t) const {
    if (!bias) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float b = of(f.shape, t, f.col(0, h, 0), h == 1);
#pragma unroll
      for (int j = 0; j < f.kBlocks; ++j) {
        f.at(j, h, 0) += b;
        f.at(j, h, 1) += b;
      }
    }
  }
  template <int kSums>
  __device__ void operator()(const RowFragment<kSums>& f, const OutputTile& t) const {
    if (!bias) return;
#pragma unroll
    for (int j = 0; j < f.kBlocks; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float b = of(f.shape, t, f.col(j, 0, i), j % 2 == 1);
        f.at(j, 0, i) += b;
        f.at(j, 1, i) += b;
      }
  }

 private:
  __device__ float of(const OutputShape& shape, const OutputTile& t, int tile_col,
                      bool second) const {
    const int col = t.first_col + tile_col;
    if (col >= shape.width) return 0;
    return bias[int64_t{t.expert} * shape.n + (shape.gated && second ? shape.width + col : col)];
  }
};

}  // namespace switchyard::cuda
