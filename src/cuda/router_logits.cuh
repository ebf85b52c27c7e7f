// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/router_logits.cuh -- logits of a router in fp32: a product with a long inner dimension
// and few columns.
//
// Alone the columns of few tokens would keep two or four SMs busy for as long as one needs to read
// its rows. So up to eight chunks of the inner dimension are the blocks of a cluster, which add
// their sums in the order of the chunks: the bits depend on the inner dimension alone. Weights are
// read before the kernel waits for its predecessor, who writes none. Many tokens fill the GPU
// anyway and go through the grouped GEMM, which adds the same chunks.
#pragma once

#include "base/checked.h"
#include "cuda/launch.h"
#include "cuda/mma_stage.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/ld_shared_cluster.cuh"
#include "ops/gate_ops.h"

namespace switchyard::cuda {

struct RouterParams {
  float* logits;                 // [T, N]
  const __nv_bfloat16* hidden;   // [T, H]
  const __nv_bfloat16* weights;  // [N, H]
  int num_tokens, n, inner;      // inner: H
  int chunk, num_chunks;         // of the inner dimension; a multiple of kRouterStep
};

inline constexpr int kRouterStep = kStreamRowBytes / int{sizeof(__nv_bfloat16)};
inline constexpr int kRouterChunks = 8;  // at most: the largest cluster that every Hopper takes

// What a block makes over its chunk: rows of weights x tokens. Many rows read the tokens seldom, few
// make more blocks. Stages are loaded kAhead steps ahead: where that is all of them, a barrier more.
template <int kWeightRows, int kNumStages, int kAhead>
class RouterTile {
 public:
  static constexpr int kWeights = kWeightRows, kTokens = 64, kStages = kNumStages;
  static constexpr int kThreads = 2 * kWeights;  // a warp multiplies 16 rows of weights
  static constexpr int kPieces = kStreamRowBytes / 16, kLines = kThreads / kPieces;

  struct Stage {
    uint8_t weights[kWeights * kStreamRowBytes], tokens[kTokens * kStreamRowBytes];
  };
  struct Storage {
    Stage stages[kStages];
    // Sums of the chunk; the padding keeps a warp's writes on different banks.
    __device__ float* sums() { return reinterpret_cast<float*>(stages); }
  };
  static constexpr int kSumsWidth = kWeights + 4;
  static_assert(sizeof(Storage) >= sizeof(float) * kSumsWidth * kTokens);

  __device__ RouterTile(const RouterParams& params, Storage& storage)
      : p(params),
        shared(storage),
        chunk(static_cast<int>(blockIdx.x) % p.num_chunks),
        first_weight(static_cast<int>(blockIdx.x) / p.num_chunks * kWeights),
        first_token(int64_t{blockIdx.y} * kTokens),
        num_tokens(static_cast<int>(min(int64_t{kTokens}, p.num_tokens - first_token))),
        num_weights(min(kWeights, p.n - first_weight)),
        line(static_cast<int>(threadIdx.x) / kPieces),
        piece(static_cast<int>(threadIdx.x) % kPieces),
        begin(chunk * p.chunk),
        end(min(begin + p.chunk, p.inner)),
        num_steps((end - begin + kRouterStep - 1) / kRouterStep) {}

  // The first stages.
  __device__ void start() const {
    for (int step = 0; step < kAhead; ++step) load<true, false>(step);
    wait_for_predecessor();
    for (int step = 0; step < kAhead; ++step) load<false, true>(step);
  }

  // With the least of 1, 2, 4 ... blocks of eight tokens that will do.
  template <int kBlocks = 1>
  __device__ void multiply() const {
    if constexpr (8 * kBlocks == kTokens)
      multiply_blocks<kBlocks>();
    else
      num_tokens <= 8 * kBlocks ? multiply_blocks<kBlocks>() : multiply<2 * kBlocks>();
  }

  // Once all blocks of the cluster have multiplied: the sums of their chunks, added in order.
  __device__ float logit(int token, int col) const {
    const float* sum = shared.sums() + token * kSumsWidth + col;
    float total = 0;
#pragma unroll
    for (int c = 0; c < kRouterChunks; ++c)
      if (c < p.num_chunks) total += ptx::ld_shared_cluster(sum, c);
    return total;
  }

  // Each block of the cluster adds a share of the tile.
  __device__ void add_chunks() const {
    ptx::barrier_cluster_sync_aligned();
    float* logits = p.logits + first_token * p.n + first_weight;
    for (int i = chunk * kThreads + static_cast<int>(threadIdx.x); i < num_tokens * kWeights;
         i += p.num_chunks * kThreads) {
      const int token = i / kWeights, col = i % kWeights;
      if (col < num_weights) logits[int64_t{token} * p.n + col] = logit(token, col);
    }
    ptx::barrier_cluster_sync_aligned();  // nobody's memory goes while it is read
  }

 private:
  template <bool kLoadsWeights, bool kLoadsTokens>
  __device__ void load(int step) const {
    if (step < num_steps) {
      const int at = begin + step * kRouterStep + piece * 8;
      Stage& stage = shared.stages[step % kStages];
      if constexpr (kLoadsWeights)
        copy<kWeights>(stage.weights, p.weights + int64_t{first_weight} * p.inner, num_weights, at);
      if constexpr (kLoadsTokens)
        copy<kTokens>(stage.tokens, p.hidden + first_token * p.inner, num_tokens, at);
    }
    ptx::cp_async_commit_group();
  }
  // Rows that are not there stay as they are: each is a row or a column of the product by itself.
  template <int kRows>
  __device__ void copy(uint8_t* dst, const __nv_bfloat16* src, int count, int at) const {
#pragma unroll
    for (int i = 0; i < kRows / kLines; ++i)
      if (const int r = i * kLines + line; r < count)
        ptx::cp_async_16_or_zeros(dst + stage_offset(r, piece), src + int64_t{r} * p.inner + at,
                                  at < end);
  }

  template <int kBlocks>
  __device__ __forceinline__ void multiply_blocks() const {
    float sums[4 * kBlocks] = {};
    for (int step = 0; step < num_steps; ++step) {
      ptx::cp_async_wait_group<kAhead - 1>();
      __syncthreads();  // all have this stage, and are done with the one before
      if constexpr (kAhead < kStages) load<true, true>(step + kAhead);
      const Stage& stage = shared.stages[step % kStages];
#pragma unroll
      for (int k = 0; k < kRouterStep / 16; ++k)
        multiply_k16<kBlocks>(sums, stage.weights, stage.tokens, k);
      if constexpr (kAhead == kStages) {
        __syncthreads();  // all are done with it
        load<true, true>(step + kAhead);
      }
    }
    ptx::cp_async_wait_group<0>();
    __syncthreads();  // stages become sums
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float* at = shared.sums() + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < kBlocks; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          at[(8 * j + 2 * (lane % 4) + i) * kSumsWidth + 8 * h] = sums[4 * j + 2 * h + i];
  }

  const RouterParams& p;
  Storage& shared;

 public:
  const int chunk, first_weight;
  const int64_t first_token;
  const int num_tokens, num_weights;

 private:
  const int line, piece;
  const int begin, end, num_steps;
};

using NarrowRouterTile = RouterTile<32, 3, 2>;
using WideRouterTile = RouterTile<128, 2, 2>;  // two blocks share an SM

template <class Tile>
__global__ __launch_bounds__(Tile::kThreads) void router_logits_kernel(
    const __grid_constant__ RouterParams p) {
  extern __shared__ __align__(128) uint8_t base[];
  allow_successor();
  const Tile tile(p, *reinterpret_cast<typename Tile::Storage*>(base));
  tile.start();
  tile.multiply();
  tile.add_chunks();
}

// What a kernel is given for an operation, and its launch.
RouterParams params_of(const RouterLogits& op);
template <class Tile>
LaunchShape shape_of(const RouterParams& p, size_t more_bytes = 0) {
  const int64_t wide = ceil_div(int64_t{p.n}, Tile::kWeights) * p.num_chunks;
  return {.grid = dim3(static_cast<unsigned>(wide),
                       static_cast<unsigned>(ceil_div(int64_t{p.num_tokens}, Tile::kTokens))),
          .block = Tile::kThreads,
          .smem_bytes = sizeof(typename Tile::Storage) + more_bytes,
          .cluster = static_cast<unsigned>(p.num_chunks)};
}
// Whether clusters of blocks are faster than the grouped GEMM.
bool takes_clusters(const RouterLogits& op);

}  // namespace switchyard::cuda
