// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/router_logits.cuh -- logits of a router in fp32: a tall product with a long inner
// dimension and few columns.
//
// With few tokens the columns alone would keep two or four SMs busy for as long as one of them needs
// to read its rows, so every chunk of the inner dimension is a block of its own, and the gate adds
// their sums. With many tokens a block goes through all chunks and adds them itself, in the same
// order. Weights come before the kernel waits for its predecessor, who writes no weights.
#pragma once

#include "cuda/launch.h"
#include "cuda/mma_stage.cuh"
#include "cuda/ptx/cp_async.cuh"

namespace switchyard::cuda {

struct RouterParams {
  float* logits;                 // [T, num_splits * N]
  const __nv_bfloat16* hidden;   // [T, H]
  const __nv_bfloat16* weights;  // [N, H]
  int num_tokens, n, inner;      // inner: H
  int chunk;                     // of the inner dimension, a multiple of kRouterStep
  int num_splits;                // 1, or one for each chunk
};

inline constexpr int kRouterTile = 64;  // tokens and weight rows of a block
inline constexpr int kRouterThreads = 128, kRouterStages = 3;
inline constexpr int kRouterStep = kStreamRowBytes / int{sizeof(__nv_bfloat16)};

struct RouterStage {
  uint8_t weights[kRouterTile * kStreamRowBytes], tokens[kRouterTile * kStreamRowBytes];
};

// A block's tile, and what its threads copy: 16 threads a row's next 256 bytes.
class RouterTile {
 public:
  static constexpr int kPieces = kStreamRowBytes / 16, kLines = kRouterThreads / kPieces;
  static constexpr int kBlocks = kRouterTile / 8;  // of tokens

  __device__ RouterTile(const RouterParams& params, RouterStage* its_stages)
      : p(params),
        stages(its_stages),
        first_weight(static_cast<int>(blockIdx.x) * kRouterTile),
        first_token(static_cast<int>(blockIdx.y) * kRouterTile),
        num_tokens(min(kRouterTile, p.num_tokens - first_token)),
        line(static_cast<int>(threadIdx.x) / kPieces),
        piece(static_cast<int>(threadIdx.x) % kPieces) {
    begin = p.num_splits > 1 ? static_cast<int>(blockIdx.z) * p.chunk : 0;
    end = p.num_splits > 1 ? min(begin + p.chunk, p.inner) : p.inner;
    num_steps = (end - begin + kRouterStep - 1) / kRouterStep;
  }

  // The first stages.
  __device__ void start() const {
    for (int step = 0; step < kRouterStages - 1; ++step) load<true, false>(step);
    wait_for_predecessor();
    for (int step = 0; step < kRouterStages - 1; ++step) load<false, true>(step);
  }

  // With the least of 1, 2, 4 and 8 blocks of tokens that will do.
  template <int kCount = 1>
  __device__ void run() const {
    if constexpr (kCount == kBlocks)
      run_blocks<kCount>();
    else
      num_tokens <= kCount * 8 ? run_blocks<kCount>() : run<2 * kCount>();
  }

 private:
  template <bool kWeights, bool kTokens>
  __device__ void load(int step) const {
    const int at = begin + step * kRouterStep + piece * 8;
    RouterStage& stage = stages[step % kRouterStages];
    if (kWeights && step < num_steps)
      copy(stage.weights, p.weights, first_weight, min(kRouterTile, p.n - first_weight), at);
    if (kTokens && step < num_steps) copy(stage.tokens, p.hidden, first_token, num_tokens, at);
    ptx::cp_async_commit_group();
  }
  // Rows that are not there stay as they are: each is a row or a column of the product by itself.
  __device__ void copy(uint8_t* dst, const __nv_bfloat16* src, int first, int count, int at) const {
#pragma unroll
    for (int r = line; r < kRouterTile; r += kLines)
      if (r < count)
        ptx::cp_async_16_or_zeros(dst + stage_offset(r, piece),
                                  src + int64_t{first + r} * p.inner + at, at < end);
  }

  template <int kCount>
  __device__ __forceinline__ void run_blocks() const {
    float sums[4 * kCount] = {}, total[4 * kCount] = {};
    const int steps_of_chunk = p.chunk / kRouterStep;
    for (int step = 0; step < num_steps; ++step) {
      ptx::cp_async_wait_group<kRouterStages - 2>();
      __syncthreads();  // all have this stage, and are done with the one before
      load<true, true>(step + kRouterStages - 1);
      const RouterStage& stage = stages[step % kRouterStages];
#pragma unroll
      for (int k = 0; k < kRouterStep / 16; ++k)
        multiply_k16<kCount>(sums, stage.weights, stage.tokens, k);
      if ((step + 1) % steps_of_chunk != 0 && step + 1 != num_steps) continue;
#pragma unroll
      for (int i = 0; i < 4 * kCount; ++i) total[i] += sums[i], sums[i] = 0;
    }
    store<kCount>(total);
  }

  template <int kCount>
  __device__ __forceinline__ void store(const float (&total)[4 * kCount]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t width = int64_t{p.num_splits} * p.n;
    float* logits = p.logits + first_token * width + int64_t{blockIdx.z} * p.n;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int col = first_weight + warp * 16 + h * 8 + lane / 4;
      if (col >= p.n) continue;
#pragma unroll
      for (int j = 0; j < kCount; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          if (const int token = 8 * j + 2 * (lane % 4) + i; token < num_tokens)
            logits[token * width + col] = total[4 * j + 2 * h + i];
    }
  }

  const RouterParams& p;
  RouterStage* const stages;
  const int first_weight, first_token, num_tokens;
  const int line, piece;
  int begin, end, num_steps;
};

__global__ __launch_bounds__(kRouterThreads, 2) void router_logits_kernel(
    const __grid_constant__ RouterParams p) {
  extern __shared__ __align__(16) uint8_t base[];
  allow_successor();
  const RouterTile tile(p, reinterpret_cast<RouterStage*>(base));
  tile.start();
  tile.run();
}

}  // namespace switchyard::cuda
