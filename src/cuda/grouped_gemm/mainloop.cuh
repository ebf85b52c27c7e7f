// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/mainloop.cuh -- the products of one warpgroup.
#pragma once

#include "cuda/grouped_gemm/operands.cuh"
#include "cuda/grouped_gemm/pipeline.cuh"

namespace switchyard::cuda {

template <GemmConfig kConfig, class Operands>
class MainLoop {
 public:
  __device__ MainLoop(SharedStorage<kConfig>& storage, int inner)
      : pipeline(storage), num_k((inner + Operands::kInner - 1) / Operands::kInner) {}

  __device__ GemmStep next_step() { return pipeline.next_step(); }

  // sums = 64 weight rows x `rows` over the whole inner dimension, in products of 16 i columns with
  // the least i of kFrom to kTo that will do: by halves, as each has its own code.
  template <int kFrom = 1, int kTo = kConfig.rows / 16, int kSums>
  __device__ void multiply(float (&sums)[kSums], int rows) {
    if constexpr (kFrom == kTo) {
      multiply_columns<kTo * 16>(sums);
    } else {
      constexpr int kMiddle = (kFrom + kTo) / 2;
      rows > kMiddle * 16 ? multiply<kMiddle + 1, kTo>(sums, rows)
                          : multiply<kFrom, kMiddle>(sums, rows);
    }
  }

 private:
  // One product stays in flight while the next stage is waited for.
  template <int kN, int kSums>
  __device__ __forceinline__ void multiply_columns(float (&sums)[kSums]) {
    int previous = -1;
    for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
      pipeline.wait_full();
      const uint64_t weights =
          ptx::matrix_descriptor(pipeline.weights() + threadIdx.x / 128 * 64 * kStageRowBytes);
      const uint64_t rows = ptx::matrix_descriptor(pipeline.rows());
      Operands::template multiply<kN>(sums, weights, rows, kb > 0);
      ptx::wgmma_wait_group<1>();
      pipeline.release(previous);
      previous = pipeline.stage();
    }
    ptx::wgmma_wait_group<0>();
    pipeline.release(previous);
  }

  Pipeline<kConfig> pipeline;
  const int num_k;
};

}  // namespace switchyard::cuda
