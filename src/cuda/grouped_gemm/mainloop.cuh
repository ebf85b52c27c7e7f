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
  __device__ MainLoop(SharedStorage<kConfig>& storage, const GemmParams& params)
      : p(params),
        pipeline(storage),
        num_k((p.k + Operands::kInner - 1) / Operands::kInner),
        chunk_stages(p.chunk_stages) {}

  __device__ GemmStep next_step() { return pipeline.next_step(); }

  // sums = 64 weight rows x the tile's rows over the whole inner dimension, in products of 16 i
  // columns with the least i of kFrom to kTo that will do: by halves, as each has its own code.
  template <int kFrom = 1, int kTo = kConfig.rows / 16, int kSums>
  __device__ void multiply(float (&sums)[kSums], const OutputTile& tile) {
    if constexpr (kFrom == kTo) {
      if constexpr (kConfig.scaled())
        multiply_scaled<kTo * 16>(sums, tile);
      else
        multiply_columns<kTo * 16>(sums);
    } else {
      constexpr int kMiddle = (kFrom + kTo) / 2;
      tile.num_rows > kMiddle * 16 ? multiply<kMiddle + 1, kTo>(sums, tile)
                                   : multiply<kFrom, kMiddle>(sums, tile);
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

  // The two rows of weights of a thread, h = 0 and 1 of Fragment: the first scale of each.
  __device__ __forceinline__ const float* weight_scales(const OutputTile& tile, int h) const {
    const Scales& scales = p.weight_scales;
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int row = tile.first_col + lane / 4;
    row += p.out.gated ? warp * 8 + h * p.out.width : warp * 16 + h * 8;
    const int block = min(row / scales.rows, scales.blocks - 1);
    return scales.values + (int64_t{tile.expert} * scales.blocks + block) * scales.steps;
  }

  // Products of a stage, then sums += products * (scale of row * scale of weights), each rounded;
  // while one warpgroup does so another multiplies.
  template <int kN, int kSums>
  __device__ __forceinline__ void multiply_scaled(float (&sums)[kSums], const OutputTile& tile) {
    const float *const scales0 = weight_scales(tile, 0), *const scales1 = weight_scales(tile, 1);
    const int pair = 2 * (static_cast<int>(threadIdx.x) % 4);
    float next0 = __ldg(scales0), next1 = __ldg(scales1);
    float products[kN / 2] = {};
    for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
      pipeline.wait_full();
      Operands::template multiply<kN>(
          products,
          ptx::matrix_descriptor(pipeline.weights() + threadIdx.x / 128 * 64 * kStageRowBytes),
          ptx::matrix_descriptor(pipeline.rows()));
      const float scale0 = next0, scale1 = next1;
      if (kb + 1 < num_k) {
        const int step = p.weight_scales.step(kb + 1);
        next0 = __ldg(scales0 + step), next1 = __ldg(scales1 + step);
      }
      pipeline.wait_scales();
      float2 of_rows[kN / 8];
#pragma unroll
      for (int j = 0; j < kN / 8; ++j)
        of_rows[j] = *reinterpret_cast<const float2*>(pipeline.row_scales() + 8 * j + pair);
      ptx::wgmma_wait_group<0>();
      pipeline.release(pipeline.stage());
#pragma unroll
      for (int j = 0; j < kN / 8; ++j) {
        float *const sum = sums + 4 * j, *const product = products + 4 * j;
        sum[0] = fmaf(product[0], of_rows[j].x * scale0, sum[0]);
        sum[1] = fmaf(product[1], of_rows[j].y * scale0, sum[1]);
        sum[2] = fmaf(product[2], of_rows[j].x * scale1, sum[2]);
        sum[3] = fmaf(product[3], of_rows[j].y * scale1, sum[3]);
      }
    }
  }

  const GemmParams& p;
  Pipeline<kConfig> pipeline;
  const int num_k, chunk_stages;
};

}  // namespace switchyard::cuda
