// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/schedule.cuh -- which steps there are, and which a cluster takes: most are
// divided beforehand, the last go to who comes first. Who takes a step changes no bit of it.
#pragma once

#include "cuda/grouped_gemm/params.cuh"
#include "cuda/ptx/atom.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace switchyard::cuda {

// The steps that clusters take, in order of expert: every tile of rows with the tiles of weights of
// a cluster. Groups of tiles of rows walk along the weights together: what the SMs work on at one
// time is then shared in L2.
template <GemmConfig kConfig>
struct Schedule {
  static constexpr int kGroup = 8;  // tiles of rows
  static_assert(kConfig.cluster_rows == 1, "blocks of a cluster have the same rows");

  const int32_t* first_step;
  const int32_t* counts;
  const int64_t* first_row;
  int num_experts, num_weights;  // of weights: tiles for each block of a cluster

  __device__ Schedule(const GemmParams& p, const int32_t* table)
      : first_step(table), counts(p.counts), first_row(p.first_row), num_experts(p.num_experts) {
    const int cols = (p.out.gated ? kConfig.weights / 2 : kConfig.weights) * kConfig.cluster();
    num_weights = (p.out.width + cols - 1) / cols;
  }

  static __device__ int num_tiles(int rows) { return (rows + kConfig.rows - 1) / kConfig.rows; }
  __device__ int num_steps(int rows) const { return num_tiles(rows) * num_weights; }
  __device__ int num_steps() const { return first_step[num_experts]; }

  // What block `rank` of the cluster does in a step.
  __device__ GemmStep step(int step, int rank) const {
    int low = 0, high = num_experts;  // first_step[low] <= step < first_step[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_step[middle] <= step ? low : high) = middle;
    }
    return step_of(low, counts[low], first_row[low], step - first_step[low], num_weights, rank);
  }

  // Of an expert with `rows` rows from `first_row` on: the local-th of its steps.
  static __device__ GemmStep step_of(int expert, int rows, int64_t first_row, int local,
                                     int num_weights, int rank) {
    const auto [tiles, tile_rows] = split_rows(rows, kConfig.rows, kConfig.row_step());
    const int group = local / (kGroup * num_weights);
    const int group_tiles = min(kGroup, tiles - group * kGroup);
    local -= group * kGroup * num_weights;
    const int first = (group * kGroup + local % group_tiles) * tile_rows;
    return {first_row + first, min(tile_rows, rows - first), expert,
            local / group_tiles * kConfig.cluster() + rank};
  }
};

// Fills first_step, by the whole thread block.
template <class Schedule>
__device__ void count_steps(const Schedule& schedule, int32_t* first_step, int32_t* warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  const int num_experts = schedule.num_experts;
  const int share = (num_experts + blockDim.x - 1) / blockDim.x;
  const int begin = min(static_cast<int>(threadIdx.x) * share, num_experts);
  const int end = min(begin + share, num_experts);
  int mine = 0;
#pragma unroll 1
  for (int e = begin; e < end; ++e) mine += schedule.num_steps(schedule.counts[e]);
  int before = mine;  // inclusive over the warp
  for (int d = 1; d < 32; d *= 2) {
    const int other = __shfl_up_sync(~0u, before, d);
    if (lane >= d) before += other;
  }
  if (lane == 31) warp_sums[warp] = before;
  __syncthreads();
  before -= mine;
#pragma unroll 1
  for (int w = 0; w < warp; ++w) before += warp_sums[w];
#pragma unroll 1
  for (int e = begin; e < end; ++e) {
    first_step[e] = before;
    before += schedule.num_steps(schedule.counts[e]);
  }
  if (threadIdx.x == 0) {
    int all = 0;
#pragma unroll 1
    for (int w = 0; w < num_warps; ++w) all += warp_sums[w];
    first_step[num_experts] = all;
  }
  __syncthreads();
}

// Which steps a cluster takes. The first ones are divided beforehand, every num_clusters-th for
// each: clusters then stay side by side, and those with the same weights or rows share what L2
// sends. The others are drawn. Every cluster draws after its last divided step and after every
// drawn one: then the counter is 0 again. One block of a cluster draws and tells the other.
template <GemmConfig kConfig>
class StepDraw {
 public:
  __device__ StepDraw(const GemmParams& params, SharedStorage<kConfig>& storage, int cluster_rank,
                      int number_of_steps)
      : p(params), shared(storage), rank(cluster_rank), num_steps(number_of_steps) {
    // Weights that are read once leave nothing to share.
    const int waves = p.stream_weights ? 1 : max(num_steps / num_clusters() - kDrawnWaves, 1);
    first_drawn = waves * num_clusters();
  }

  __device__ int first() const { return blockIdx.x / kConfig.cluster(); }

  // For the step after `step`, which begins: the answer takes as long as a short step.
  __device__ void ask(int step) {
    draws = p.next_step && step + num_clusters() >= first_drawn;
    drawn = step + num_clusters() - first_drawn;
    ptx::atom_inc(draws && rank == 0, drawn, p.next_step,
                  num_steps - first_drawn + num_clusters() - 1);
  }
  // Once it may be here.
  __device__ void send() {
    if (!kPair || !draws || rank > 0) return;
    const int slot = num_sent++ % kSentSteps;
    ptx::st_async_mapa(1, &shared.sent_steps[slot], drawn, &shared.step_sent[slot]);
  }
  __device__ int next() { return first_drawn + (kPair && draws && rank > 0 ? receive() : drawn); }

 private:
  static constexpr bool kPair = kConfig.cluster() > 1;
  static_assert(kConfig.cluster() <= 2);
  static constexpr int kDrawnWaves = 8;  // more than clusters drift apart

  static __device__ int num_clusters() { return gridDim.x / kConfig.cluster(); }

  __device__ int receive() {
    const int slot = num_sent % kSentSteps, parity = num_sent++ / kSentSteps % 2;
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared,
                                   &shared.step_sent[slot], sizeof(int32_t));
    ptx::mbarrier_wait_parity(&shared.step_sent[slot], parity);
    return *static_cast<volatile int32_t*>(&shared.sent_steps[slot]);
  }

  const GemmParams& p;
  SharedStorage<kConfig>& shared;
  const int rank, num_steps;
  int first_drawn;
  bool draws = false;
  int drawn = 0;  // from first_drawn on
  uint32_t num_sent = 0;
};

}  // namespace switchyard::cuda
