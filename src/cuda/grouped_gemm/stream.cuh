// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/stream.cuh -- the grouped GEMM of few rows per expert: as kernel.cuh says,
// but bound by the bytes of the weights, so all that matters is how they come.
//
// A block is one step: 64 weight rows x a tile of rows, out of a table of tiles or, where no plan
// made one, found in counts. Every thread copies 16 bytes at a time, 16
// threads a row's next 256, into a ring of stages; each warp multiplies 16 weight rows by all rows
// with mma, in the order of summation of wgmma: the same bits. Three or four blocks share an SM:
// while one begins or ends, the others keep memory busy, and the hardware gives the next block to
// the SM that is free first.
#pragma once

#include "cuda/grouped_gemm/schedule.cuh"
#include "cuda/launch.h"
#include "cuda/mma_stage.cuh"
#include "cuda/ptx/cp_async.cuh"

namespace switchyard::cuda {

// The expert of row tile `tile`, found by every warp for itself: each round leaves a 32nd of the
// experts. Without one, `expert` is -1.
struct TileOwner {
  int expert, count;  // and its rows
  int first_tile;     // tiles of the experts before it
};
template <GemmConfig kConfig>
__device__ __forceinline__ TileOwner find_owner(const int32_t* counts, int num_experts, int tile) {
  const int lane = threadIdx.x % 32;
  int begin = 0, length = num_experts, before = 0, count = 0;
  for (;;) {
    const int share = (length + 31) / 32, first = begin + lane * share;
    const int last = min(first + share, begin + length);
    int mine = 0;
#pragma unroll 4
    for (int e = first; e < last; ++e) {
      count = counts[e];
      mine += Schedule<kConfig>::num_tiles(count);
    }
    int until = mine;  // inclusive over the warp
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(~0u, until, d);
      if (lane >= d) until += other;
    }
    const unsigned beyond = __ballot_sync(~0u, tile < before + until);
    if (beyond == 0) return {-1, 0, 0};
    const int owner = __ffs(beyond) - 1;
    before += __shfl_sync(~0u, until - mine, owner);
    count = __shfl_sync(~0u, count, owner);
    begin += owner * share, length = min(share, length - owner * share);
    if (share == 1) return {begin, count, before};
  }
}

// That of this block; without rows: none.
template <GemmConfig kConfig>
__device__ __forceinline__ GemmStep find_step(const GemmParams& p, int num_weights) {
  const auto number = static_cast<int>(blockIdx.x);
  if (p.tiles != nullptr) {
    const RowTile tile = p.tiles[number / num_weights];
    return {tile.first_row, tile.num_rows, tile.expert, number % num_weights};
  }
  const TileOwner owner = find_owner<kConfig>(p.counts, p.num_experts, number / num_weights);
  if (owner.expert < 0) return {};
  return Schedule<kConfig>::step_of(owner.expert, owner.count, p.first_row[owner.expert],
                                    number - owner.first_tile * num_weights, num_weights, 0);
}

// What one thread copies: piece `piece` of every kLines-th row from `line` on.
template <GemmConfig kConfig>
class StreamLoader {
 public:
  static constexpr int kPieces = kStreamRowBytes / 16, kElements = 8;  // of a row, of a piece
  static constexpr int kLines = kConfig.threads() / kPieces;
  static constexpr int kWeights = kConfig.weights / kLines;
  static constexpr int kRows = (kConfig.rows + kLines - 1) / kLines;

  __device__ StreamLoader(const GemmParams& params, const GemmStep& step,
                          StreamStorage<kConfig>& storage)
      : p(params),
        shared(storage),
        line(static_cast<int>(threadIdx.x) / kPieces),
        piece(static_cast<int>(threadIdx.x) % kPieces) {
    // A pair is 16 rows of a stage: rows of gate and of up in eights, or 16 that follow each other.
    in_pair = int64_t{p.out.gated ? p.out.width : 8} * p.k;
    next_pair = int64_t{p.out.gated ? 8 : 16} * p.k;
    const int first = step.weights * (p.out.gated ? kConfig.weights / 2 : kConfig.weights);
    weight = p.weight + (int64_t{step.expert} * p.out.n + first + line) * p.k + piece * kElements;
    num_weights = p.out.width - first - line;
  }

  // Which rows: those that follow first_row, or those of the tokens that have these slots.
  __device__ void find_rows(const GemmStep& step) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int r = i * kLines + line;
      row[i] = r < step.num_rows ? static_cast<int>(step.first_row) + r : -1;
    }
    if (p.slot_of_row == nullptr) return;
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (row[i] >= 0) row[i] = p.slot_of_row[row[i]];
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (row[i] >= 0) row[i] /= p.slots_per_row;
  }

  __device__ void load_weights(int stage, int kb) const {
    const int k = kb * kConfig.inner();
    const bool inside = k + piece * kElements < p.k;
#pragma unroll
    for (int i = 0; i < kWeights; ++i) {
      const int r = i * kLines, ahead = p.out.gated ? r / 16 * 8 + r % 8 : r;
      ptx::cp_async_16_or_zeros(
          shared.weights(stage) + stage_offset(r + line, piece),
          weight + int64_t{r % 8} * p.k + r / 8 % 2 * in_pair + r / 16 * next_pair + k,
          inside && ahead < num_weights);
    }
  }
  // Rows that a tile does not have stay as they are: each is a column of the product by itself.
  __device__ void load_rows(int stage, int kb) const {
    const int k = kb * kConfig.inner() + piece * kElements;
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (row[i] >= 0)
        ptx::cp_async_16_or_zeros(shared.rows(stage) + stage_offset(i * kLines + line, piece),
                                  p.row + int64_t{row[i]} * p.k + k, k < p.k);
  }

 private:
  const GemmParams& p;
  StreamStorage<kConfig>& shared;
  const int line, piece;  // line < 8
  const __nv_bfloat16* weight;
  int64_t in_pair, next_pair;
  int num_weights;
  int row[kRows];
};

template <GemmConfig kConfig>
class StreamLoop {
 public:
  static constexpr int kStages = kConfig.stages, kInner = kConfig.inner();

  __device__ StreamLoop(const StreamLoader<kConfig>& its_loader, StreamStorage<kConfig>& storage,
                        int inner)
      : loader(its_loader), shared(storage), k(inner), num_k((inner + kInner - 1) / kInner) {}

  // The first stages. Weights are older than what the kernel may have to wait for, and need no look
  // at slots.
  template <class Wait>
  __device__ void begin(const Wait& wait) {
#pragma unroll
    for (int kb = 0; kb < kStages - 1; ++kb) load<true, false>(kb, kb);
    wait();
#pragma unroll
    for (int kb = 0; kb < kStages - 1; ++kb) load<false, true>(kb, kb);
  }

  // In products of 8 i rows with the least i of 1, 2, 4 that will do.
  template <int kBlocks = 1, int kSums>
  __device__ void multiply(float (&sums)[kSums], int num_rows) {
    if constexpr (kBlocks == kSums / 4)
      multiply_blocks<kBlocks>(sums);
    else
      num_rows <= kBlocks * 8 ? multiply_blocks<kBlocks>(sums)
                              : multiply<2 * kBlocks>(sums, num_rows);
  }

 private:
  template <bool kWeights, bool kRows>
  __device__ void load(int stage, int kb) const {
    if (kb < num_k) {
      if constexpr (kWeights) loader.load_weights(stage, kb);
      if constexpr (kRows) loader.load_rows(stage, kb);
    }
    ptx::cp_async_commit_group();
  }

  template <int kBlocks>
  __device__ __forceinline__ void multiply_blocks(float* sums) {
    int stage = 0, free_stage = kStages - 1;
    for (int kb = 0; kb < num_k; ++kb) {
      ptx::cp_async_wait_group<kStages - 2>();
      __syncthreads();  // all have this stage, and are done with the one before
      load<true, true>(free_stage, kb + kStages - 1);
      const uint8_t *weights = shared.weights(stage), *rows = shared.rows(stage);
      // wgmma takes the inner dimension 64 at a time, zeros past its end.
      const int num_k16 = (k - kb * kInner + 63) / 64 * 4;
      if (num_k16 >= kInner / 16) {
#pragma unroll
        for (int i = 0; i < kInner / 16; ++i) multiply_k16<kBlocks>(sums, weights, rows, i);
      } else {
#pragma unroll 1
        for (int i = 0; i < num_k16; ++i) multiply_k16<kBlocks>(sums, weights, rows, i);
      }
      free_stage = stage;
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  }

  const StreamLoader<kConfig>& loader;
  StreamStorage<kConfig>& shared;
  const int k, num_k;
};

// Integers, as grouped_gemm_kernel has.
template <int kRows, int kWeights, int kStages>
__global__ __launch_bounds__(2 * kWeights, 3 * 64 / kWeights) void streamed_gemm_kernel(
    const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(1024) uint8_t base[];
  constexpr GemmConfig kConfig{
      kRows, kWeights, kStages, 1, 1, OperandKind::Bf16, ProducerKind::EveryThread};
  auto& shared = *reinterpret_cast<StreamStorage<kConfig>*>(base);
  if (!p.groups_are_older) wait_for_predecessor();
  allow_successor();
  const int cols = p.out.gated ? kWeights / 2 : kWeights;
  const GemmStep step = find_step<kConfig>(p, (p.out.width + cols - 1) / cols);
  const auto wait = [&] {
    if (p.groups_are_older) wait_for_predecessor();
  };
  if (step.num_rows == 0) return wait();

  StreamLoader<kConfig> loader(p, step, shared);
  StreamLoop<kConfig> loop(loader, shared, p.k);
  loader.find_rows(step);
  loop.begin(wait);
  float sums[kRows / 2] = {};
  loop.multiply(sums, step.num_rows);

  if constexpr (kConfig.weights >= 64) {
    ptx::cp_async_wait_group<0>();
    __syncthreads();  // stages become buffers of output
  }
  const Place place{static_cast<int>(threadIdx.x % 32), static_cast<int>(threadIdx.x / 32)};
  const OutputTile tile{step.first_row, step.num_rows, step.expert, step.weights * cols};
  const Fragment fragment(sums, place, p.out);
  p.epilogue(fragment, tile);
  if constexpr (kConfig.weights < 64) {
    store_sums(p.store, fragment, tile);
  } else {
    TileStore<kConfig.staging_bytes()> store(p.store, shared.stages, place, 1);
    store(fragment, tile);
    store.finish();
  }
}

}  // namespace switchyard::cuda
