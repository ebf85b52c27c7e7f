// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/epilogue_scale.cuh -- the router's weight on the input: scales the sums of a
// row.
#pragma once

#include "cuda/grouped_gemm/fragment.cuh"
#include "ops/expert_ops.h"

namespace switchyard::cuda {

struct ScaleRows {
  const float* row_weights;    // by slot, or null
  const int32_t* slot_of_row;  // [C]

  static ScaleRows of(const GroupedGemm& g) {
    return {g.row_weights.as<float>(), g.slot_of_row.as<int32_t>()};
  }

  template <int kSums>
  __device__ void operator()(const Fragment<kSums>& f, const OutputTile& t) const {
    if (!row_weights) return;
#pragma unroll
    for (int j = 0; j < f.kBlocks; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float scale = of(t, f.row(j, 0, i));
        f.at(j, 0, i) *= scale;
        f.at(j, 1, i) *= scale;
      }
  }
  template <int kSums>
  __device__ void operator()(const RowFragment<kSums>& f, const OutputTile& t) const {
    if (!row_weights) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float scale = of(t, f.row(0, h, 0));
#pragma unroll
      for (int j = 0; j < f.kBlocks; ++j) f.at(j, h, 0) *= scale, f.at(j, h, 1) *= scale;
    }
  }

 private:
  __device__ float of(const OutputTile& t, int row) const {
    return row < t.num_rows ? row_weights[slot_of_row[t.first_row + row]] : 1.0f;
  }
};

}  // namespace switchyard::cuda
