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
        group(static_cast<int>(threadIdx.x / 128)),
        num_k((p.k + Operands::kInner - 1) / Operands::kInner),
        chunk_stages(p.chunk_stages) {
    if (kConfig.ping_pong && group == 1) pipeline.skip_step(num_k);
  }

  __device__ GemmStep next_step() { return pipeline.next_step(); }

  // sums[h] = 64 weight rows x the tile's rows over the whole inner dimension, in products of 16 i
  // columns with the least i of kFrom to kTo that will do: by halves, as each has its own code.
  template <int kFrom = 1, int kTo = kConfig.rows / 16, int kParts, int kSums>
  __device__ void multiply(float (&sums)[kParts][kSums], const OutputTile& tile) {
    if constexpr (kFrom == kTo) {
      if constexpr (kConfig.scaled())
        multiply_scaled<kTo * 16>(sums[0]);
      else
        multiply_columns<kTo * 16>(sums);
    } else {
      constexpr int kMiddle = (kFrom + kTo) / 2;
      tile.num_rows > kMiddle * 16 ? multiply<kMiddle + 1, kTo>(sums, tile)
                                   : multiply<kFrom, kMiddle>(sums, tile);
    }
  }

  // Where rows come first: sums[h] = the 64 rows from first_row() on x the tile's h-th 128 weights, if
  // the tile has such rows. While one warpgroup adds, the other's products are made.
  template <bool kHasRows, int kParts, int kSums>
  __device__ __forceinline__ void multiply_rows(float (&sums)[kParts][kSums]) {
    for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
      pipeline.wait_full();
      pipeline.wait_scales();
      if constexpr (kHasRows) {
        const float* of_rows = pipeline.row_scales() + first_row() + first_row_of_thread();
        const float2 row_scales{of_rows[0], of_rows[8]};
#pragma unroll
        for (int h = 0; h < kParts; ++h) {
          const int weight = h * 2 * kSums;
          float products[kSums];
          Operands::template multiply<2 * kSums>(
              products, ptx::matrix_descriptor(pipeline.rows() + first_row() * kStageRowBytes),
              ptx::matrix_descriptor(pipeline.weights() + weight * kStageRowBytes));
          add_row_products(sums[h], products, row_scales, pipeline.weight_scales() + weight);
        }
      }
      __syncwarp();  // one lane tells that all have read their scales
      pipeline.release(pipeline.stage());
    }
  }

  __device__ int first_row() const {
    return group * 64;
  }

 private:
  // Once they are there. Rows of gate and of up alternate in eights, as do blocks j.
  template <int kSums>
  __device__ __forceinline__ void add_row_products(float (&sums)[kSums],
                                                   const float (&products)[kSums], float2 of_rows,
                                                   const float* of_weights) {
    if (p.weights_share_scale) {
      const float scales[2][2] = {{of_rows.x * of_weights[0], of_rows.y * of_weights[0]},
                                  {of_rows.x * of_weights[8], of_rows.y * of_weights[8]}};
      ptx::wgmma_wait_group<0>();
#pragma unroll
      for (int i = 0; i < kSums; ++i)
        sums[i] = fmaf(products[i], scales[i / 4 % 2][i / 2 % 2], sums[i]);
    } else {
      const auto* of_columns = reinterpret_cast<const float2*>(of_weights) + threadIdx.x % 4;
      ptx::wgmma_wait_group<0>();
#pragma unroll
      for (int j = 0; j < kSums / 4; ++j) {
        const float2 scale = of_columns[4 * j];
        sums[4 * j] = fmaf(products[4 * j], of_rows.x * scale.x, sums[4 * j]);
        sums[4 * j + 1] = fmaf(products[4 * j + 1], of_rows.x * scale.y, sums[4 * j + 1]);
        sums[4 * j + 2] = fmaf(products[4 * j + 2], of_rows.y * scale.x, sums[4 * j + 2]);
        sums[4 * j + 3] = fmaf(products[4 * j + 3], of_rows.y * scale.y, sums[4 * j + 3]);
      }
    }
  }

  // One product stays in flight while the next stage is waited for.
  template <int kN, int kParts, int kSums>
  __device__ __forceinline__ void multiply_columns(float (&sums)[kParts][kSums]) {
    static_assert(!kConfig.adds_chunks || kParts == 1);
    [[maybe_unused]] float total[kConfig.adds_chunks ? kSums : 1] = {};
    int previous = -1, of_chunk = 0;
    if constexpr (kConfig.ping_pong) pipeline.wait_turn(group);
    for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
      pipeline.wait_full();
      const uint64_t weights =
          ptx::matrix_descriptor(pipeline.weights() + first_weight() * kStageRowBytes);
      const uint64_t rows = ptx::matrix_descriptor(pipeline.rows());
      Operands::template multiply<kN>(sums, weights, rows, of_chunk > 0);
      ptx::wgmma_wait_group<1>();
      pipeline.release(previous);
      previous = pipeline.stage();
      ++of_chunk;
      if constexpr (kConfig.adds_chunks)
        if (of_chunk == chunk_stages) {
          ptx::wgmma_wait_group<0>();
          add(total, sums[0]);
          of_chunk = 0;
        }
    }
    if constexpr (kConfig.ping_pong) pipeline.pass_turn(group);
    ptx::wgmma_wait_group<0>();
    pipeline.release(previous);
    if constexpr (kConfig.ping_pong) pipeline.skip_step(num_k);
    if constexpr (kConfig.adds_chunks) {
      if (of_chunk > 0) add(total, sums[0]);
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[0][i] = total[i];
    }
  }
  // The first of two rows of a product that a thread has sums of; the other is 8 on.
  static __device__ int first_row_of_thread() {
    return static_cast<int>(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4);
  }
  // Of this warpgroup, among a stage's rows of weights.
  __device__ int first_weight() const {
    return kConfig.ping_pong ? 0 : group * 64;
  }
  template <int kSums>
  static __device__ __forceinline__ void add(float (&total)[kSums], const float (&sums)[kSums]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] += sums[i];
  }

  // sums += products * (scale of row * scale of weights) for each stage, each rounded.
  template <int kN, int kSums>
  __device__ __forceinline__ void multiply_scaled(float (&sums)[kSums]) {
    const int pair = 2 * (static_cast<int>(threadIdx.x) % 4);
    const int weight = first_weight() + first_row_of_thread();
    for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
      pipeline.wait_full();
      float products[kN / 2];
      Operands::template multiply<kN>(
          products, ptx::matrix_descriptor(pipeline.weights() + first_weight() * kStageRowBytes),
          ptx::matrix_descriptor(pipeline.rows()));
      pipeline.wait_scales();
      const float scale0 = pipeline.weight_scales()[weight];
      const float scale1 = pipeline.weight_scales()[weight + 8];
      ptx::wgmma_wait_group<0>();
#pragma unroll
      for (int j = 0; j < kN / 8; ++j) {
        const float2 of_rows =
            *reinterpret_cast<const float2*>(pipeline.row_scales() + 8 * j + pair);
        float *const sum = sums + 4 * j, *const product = products + 4 * j;
        sum[0] = fmaf(product[0], of_rows.x * scale0, sum[0]);
        sum[1] = fmaf(product[1], of_rows.y * scale0, sum[1]);
        sum[2] = fmaf(product[2], of_rows.x * scale1, sum[2]);
        sum[3] = fmaf(product[3], of_rows.y * scale1, sum[3]);
      }
      __syncwarp();  // one lane tells that all have read their scales
      pipeline.release(pipeline.stage());
    }
  }

  const GemmParams& p;
  Pipeline<kConfig> pipeline;
  const int group, num_k, chunk_stages;
};

}  // namespace switchyard::cuda
