// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/kernel.cuh -- the grouped GEMM of Hopper: TMA, wgmma, persistent. That of few
// rows per expert: stream.cuh.
//
//     s = src[r, :] weights[e, j, :]^T * scale[r] + bias[e, j]     dst[r, c] = activation(s_1, s_2)
//
// for the rows [first_row[e], first_row[e] + counts[e]) of each expert e. The product is formed
// transposed, weights times rows: the instruction multiplies 64 of its first operand by any
// multiple of 16 of its second, and an expert has any number of rows, but weights come in hundreds.
// An expert's rows are divided into as few tiles as hold them, all but the last equal.
//
// One block per SM takes steps, a tile of weight rows x a tile of rows, until none is left
// (schedule.cuh). Roles: the last warpgroup is the producer, which fills the stages and says which
// step they are of (producer.cuh, pipeline.cuh); every other warpgroup multiplies 64 weight rows
// (mainloop.cuh, operands.cuh), and passes over what it made and stores it (fragment.cuh,
// epilogue*.cuh). Where a configuration says so two warpgroups take whole tiles in turns (ping-pong),
// or multiply rows times weights, 64 rows each (rows first). The blocks of a cluster take
// neighbouring weights with the same rows, each loading a share of the rows for all.
//
// Order of summation: the inner dimension ascending in steps of 16, one fp32 accumulator, whatever
// the configuration; where a GEMM has chunks, one for each, added in their order. Of fp8: in steps of
// 32, 128 at a time, each times its scales added in fp32. Bound: tensor
// cores with many rows per expert, the bytes of the weights with few.
#pragma once

#include "cuda/grouped_gemm/epilogue_quantize.cuh"
#include "cuda/grouped_gemm/mainloop.cuh"
#include "cuda/grouped_gemm/producer.cuh"
#include "cuda/grouped_gemm/stream.cuh"
#include "cuda/launch.h"

namespace switchyard::cuda {

template <GemmConfig kConfig, class Operands>
__device__ __forceinline__ void multiply_tiles(const GemmParams& p,
                                               SharedStorage<kConfig>& shared) {
  constexpr int kParts = kConfig.warpgroup_weights() / 64;
  const int group = threadIdx.x / 128;
  const Place place{static_cast<int>(threadIdx.x % 32), static_cast<int>(threadIdx.x / 32 % 4)};
  MainLoop<kConfig, Operands> main_loop(shared, p);
  constexpr int kStaging = kConfig.staging_bytes();
  TileStore<kStaging> store(p.store, shared.outputs() + group * 2 * kStaging, place, group + 1);
  for (;;) {
    // Defined anew, or the compiler defines what a narrow product leaves alone in the midst of the
    // products, and to do so serialises them (C7515).
    float sums[kParts][kConfig.rows / 2] = {};
    const GemmStep step = main_loop.next_step();
    if (step.num_rows == 0) break;
    const int weight_row = step.weights * kConfig.weights + (kConfig.ping_pong ? 0 : group * 64);
    OutputTile tile{step.first_row, step.num_rows, step.expert,
                    p.out.gated ? weight_row / 2 : weight_row};
    main_loop.multiply(sums, tile);
#pragma unroll
    for (int h = 0; h < kParts; ++h, tile.first_col += p.out.gated ? 32 : 64) {
      if (tile.first_col >= p.out.width) break;
      const Fragment fragment(sums[h], place, p.out);
      p.epilogue(fragment, tile);
      store(fragment, tile);
    }
  }
  store.finish();
}

// Where rows come first. With a gate what is stored is quantised.
template <GemmConfig kConfig, class Operands>
__device__ __forceinline__ void multiply_row_tiles(const GemmParams& p,
                                                   SharedStorage<kConfig>& shared) {
  const int group = threadIdx.x / 128;
  const Place place{static_cast<int>(threadIdx.x % 32), static_cast<int>(threadIdx.x / 32 % 4)};
  MainLoop<kConfig, Operands> main_loop(shared, p);
  constexpr int kStaging = kConfig.staging_bytes();
  TileStore<kStaging> store(p.store, shared.outputs() + group * 2 * kStaging, place, group + 1);
  const CodeStore store_codes(p.store, p.out, shared.outputs() + group * 2 * kStaging, place);
  const int row = main_loop.first_row();
  for (;;) {
    constexpr int kParts = kConfig.weights / 128;
    float sums[kParts][64] = {};
    const GemmStep step = main_loop.next_step();
    if (step.num_rows == 0) break;
    if (step.num_rows <= row) {
      main_loop.template multiply_rows<false>(sums);
      continue;
    }
    main_loop.template multiply_rows<true>(sums);
    const auto part = [&](int h) -> OutputTile {
      const int weight = step.weights * kConfig.weights + h * 128;
      return {step.first_row + row, step.num_rows - row, step.expert,
              p.out.gated ? weight / 2 : weight};
    };
#pragma unroll
    for (int h = 0; h < kParts; ++h) {
      const RowFragment fragment(sums[h], place, p.out);
      p.epilogue(fragment, part(h));
      if (!p.out.gated) store(fragment, part(h));
    }
    if (p.out.gated) store_codes(sums, part(0));
  }
  store.finish();
}

// Integers and types: a profiler shows them in the kernel's name, and nvcc 13.0 with g++ 12 takes no
// struct here.
template <int kRows, int kWeights, int kStages, int kClusterRows, int kClusterWeights,
          class Operands, class Rows, bool kAddsChunks, bool kPingPong, bool kRowsFirst>
__global__ __launch_bounds__((GemmConfig{kRows, kWeights, kStages, kClusterRows, kClusterWeights,
                                         Operands::kKind, Rows::kKind, kAddsChunks, kPingPong,
                                         kRowsFirst}
                                  .threads()),
                             1) void grouped_gemm_kernel(const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(1024) uint8_t base[];
  constexpr GemmConfig kConfig{kRows,           kWeights,        kStages,     kClusterRows,
                               kClusterWeights, Operands::kKind, Rows::kKind, kAddsChunks,
                               kPingPong,       kRowsFirst};
  constexpr int kMathThreads = kConfig.math_threads();
  constexpr bool kCluster = kConfig.cluster() > 1;
  auto& shared = *reinterpret_cast<SharedStorage<kConfig>*>(base);
  const int rank = kCluster ? static_cast<int>(ptx::get_sreg_cluster_ctarank()) : 0;
  if (threadIdx.x == 0) {
    Pipeline<kConfig>::init(shared);
    ptx::prefetch_tensormap(&p.src);
    ptx::prefetch_tensormap(&p.weights);
  }
  wait_for_predecessor();
  allow_successor();
  const Schedule<kConfig> schedule(p, shared.first_step());
  count_steps(schedule, shared.first_step(), shared.warp_sums);
  if constexpr (kCluster) ptx::barrier_cluster_sync_aligned();  // the others' barriers are ready

  // 65,536 registers: two warpgroups that multiply need more than a third each.
  constexpr bool kMoveRegisters = kConfig.math_warpgroups() > 1;
  constexpr int kMathRegisters = kConfig.ping_pong || kConfig.scaled() ? 232 : 224;
  if (threadIdx.x >= kMathThreads) {
    if constexpr (kMoveRegisters) ptx::setmaxnreg_dec<504 - 2 * kMathRegisters>();
    if (threadIdx.x < kMathThreads + kConfig.producer_threads()) {
      Producer<kConfig, Rows>(p, shared, rank).run(schedule);
      if constexpr (kCluster) {
        ptx::barrier_cluster_arrive(ptx::sem_release);
        ptx::barrier_cluster_wait(ptx::sem_acquire);
      }
    } else if constexpr (kConfig.scaled()) {
      if (threadIdx.x >= kMathThreads + 32)
        ScaleProducer<kConfig>(p, shared, static_cast<int>(threadIdx.x) - kMathThreads - 32).run();
    }
  } else {
    if constexpr (kMoveRegisters) ptx::setmaxnreg_inc<kMathRegisters>();
    if constexpr (kRowsFirst)
      multiply_row_tiles<kConfig, Operands>(p, shared);
    else
      multiply_tiles<kConfig, Operands>(p, shared);
    // Other blocks may still fill this one's stages, and tell it of steps.
    if constexpr (kCluster) ptx::barrier_cluster_sync_aligned();
  }
}

template <GemmConfig kConfig>
GemmKernel gemm_kernel() {
  if constexpr (kConfig.streams())
    return streamed_gemm_kernel<kConfig.rows, kConfig.weights, kConfig.stages>;
  else
    return grouped_gemm_kernel<kConfig.rows, kConfig.weights, kConfig.stages, kConfig.cluster_rows,
                               kConfig.cluster_weights, typename OperandsOf<kConfig.operands>::type,
                               typename RowsOf<kConfig.producer>::type, kConfig.adds_chunks,
                               kConfig.ping_pong, kConfig.rows_first>;
}

}  // namespace switchyard::cuda
