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
    const float* of_expert = bias + int64_t{t.expert} * f.shape.n;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int col = t.first_col + f.col(h);
      const float b = col < f.shape.width
                          ? of_expert[f.shape.gated && h == 1 ? f.shape.width + col : col]
                          : 0.0f;
#pragma unroll
      for (int j = 0; j < f.kBlocks; ++j) {
        f.at(j, h, 0) += b;
        f.at(j, h, 1) += b;
      }
    }
  }
};

}  // namespace switchyard::cuda
