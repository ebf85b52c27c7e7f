// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/mainloop.cuh -- the products of one warpgroup.
#pragma once

#include "cuda/grouped_gemm/operands.cuh"
#include "cuda/grouped_gemm/params.cuh"
#include "cuda/grouped_gemm/pipeline.cuh"

namespace switchyard::cuda {

template <GemmConfig kConfig, class Operands>
class MainLoop {
 public:
  __device__ MainLoop(SharedStorage<kConfig>& storage, const GemmParams& p)
      : pipeline(storage),
        num_k((p.k + Operands::kInner - 1) / Operands::kInner),
        chunk_stages(p.chunk_stages) {}

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
    [[maybe_unused]] float total[kConfig.adds_chunks ? kSums : 1] = {};
    int previous = -1, of_chunk = 0;
    for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
      pipeline.wait_full();
      const uint64_t weights =
          ptx::matrix_descriptor(pipeline.weights() + threadIdx.x / 128 * 64 * kStageRowBytes);
      const uint64_t rows = ptx::matrix_descriptor(pipeline.rows());
      Operands::template multiply<kN>(sums, weights, rows, of_chunk > 0);
      ptx::wgmma_wait_group<1>();
      pipeline.release(previous);
      previous = pipeline.stage();
      ++of_chunk;
      if constexpr (kConfig.adds_chunks)
        if (of_chunk == chunk_stages) {
          ptx::wgmma_wait_group<0>();
          add(total, sums);
          of_chunk = 0;
        }
    }
    ptx::wgmma_wait_group<0>();
    pipeline.release(previous);
    if constexpr (kConfig.adds_chunks) {
      if (of_chunk > 0) add(total, sums);
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] = total[i];
    }
  }
  template <int kSums>
  static __device__ __forceinline__ void add(float (&total)[kSums], const float (&sums)[kSums]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] += sums[i];
  }

  Pipeline<kConfig> pipeline;
  const int num_k, chunk_stages;
};

}  // namespace switchyard::cuda
