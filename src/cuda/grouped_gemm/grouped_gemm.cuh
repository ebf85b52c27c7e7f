// src/cuda/grouped_gemm/grouped_gemm.cuh -- the grouped GEMM of Hopper: TMA, wgmma, persistent.
//
//     s = src[r, :] weights[e, j, :]^T * scale[r] + bias[e, j]     dst[r, c] = activation(s_1, s_2)
//
// for the rows [first_row[e], first_row[e] + counts[e]) of each expert e. One block per SM takes
// tiles kM rows x kN weight rows until none is left; a tile never spans two experts, rows past an
// expert's last are neither stored nor, where whole boxes of rows are idle, loaded. The last
// warpgroup loads (one thread), the others multiply: 64 rows x kN each, and write what they made.
//
// Two blocks of a cluster take a step together: two tiles of rows with the same weights, each
// loading half of them for both; or, at the end of an expert, one tile of rows with two of weights,
// each loading half of the rows for both.
//
// A gated tile holds kN / 2 gate rows and the kN / 2 up rows that go with them, alternating in
// eights: the tensor map of W1 [2I, k] has the dimensions (k, 8, 2 halves, I / 8, E), so the copy
// engine interleaves them and the weights stay as they are in the checkpoint. One thread then holds
// s_1 and s_2 of an output in acc[8 q + i] and acc[8 q + 4 + i].
//
// Order of summation: the inner dimension ascending in steps of 16, one fp32 accumulator, whatever
// the tile. Bound: tensor cores with many rows per expert, the bytes of the weights with few.
#pragma once

#include <cuda_bf16.h>

#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "strategy/tiles.h"

namespace switchyard::cuda {

struct GemmParams {
  CUtensorMap src, weights;
  void* dst;                   // bf16 or f32 [C, width]
  const int32_t* counts;       // [E]
  const int64_t* first_row;    // [E + 1]
  const float* bias;           // [E, n] or null
  const float* row_weights;    // by slot, or null
  const int32_t* slot_of_row;  // [C], with row_weights
  int num_experts, n, k, width;
  int activation;  // an ActivationKind, or -1
  float alpha, limit;
  bool gated, up_first, dst_is_f32;
  bool stream_weights;  // an expert has one tile of rows: its weights are read once
};

// Rows of src that one copy brings: small ones where most of a tile's rows may be idle.
template <int kM>
inline constexpr int kRowsPerBox = kM == 64 ? 16 : 64;

template <int kM, int kN, int kStages>
struct GemmShared {
  static constexpr int kStageBytes = (kM + kN) * kTileInner * 2;

  uint8_t* stages;
  uint8_t* staging;
  uint64_t *full, *empty;  // [kStages]
  int32_t* warp_sums;      // [32]
  int32_t* first_step;     // [E + 1] steps of the experts before e

  __device__ explicit GemmShared(uint8_t* base)
      : stages(base),
        staging(stages + kStages * kStageBytes),
        full(reinterpret_cast<uint64_t*>(staging + kM * kStagingPitch)),
        empty(full + kStages),
        warp_sums(reinterpret_cast<int32_t*>(empty + kStages)),
        first_step(warp_sums + 32) {}

  __device__ uint8_t* src(int stage) const { return stages + stage * kStageBytes; }
  __device__ uint8_t* weights(int stage) const { return src(stage) + kM * kTileInner * 2; }
};

// Where the pipeline stands: the same sequence for the thread that loads and those that multiply.
template <int kStages>
struct PipelinePosition {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

struct GemmBlock {
  int expert, m, n;  // tile of rows within the expert, tile of weight rows
  bool shares_rows;  // with the other block of the cluster, which has the next n; else the weights
};

// The steps that clusters take, in order of expert. Within an expert first those that share weights
// (groups of kGroupM of them walk along n together: what the SMs work on at one time is then shared
// in L2), then those that share rows: where the second block would have none. So up to 256 rows
// every weight is fetched once: blocks that are not of one cluster drift apart by more than L2
// remembers.
template <int kM, int kCluster>
struct GemmSchedule {
  static constexpr int kGroupM = 16 / kCluster;

  const int32_t* first_step;
  const int32_t* counts;
  int num_experts, num_n;

  // Steps that share weights, per tile of weights.
  __device__ int num_wide(int rows) const {
    return kCluster == 1 ? (rows + kM - 1) / kM : (rows + kM - 1) / (kM * kCluster);
  }
  // Tiles of rows that are left for steps that share them.
  __device__ int num_rest(int rows) const {
    return max(0, (rows - num_wide(rows) * kM * kCluster + kM - 1) / kM);
  }
  __device__ int num_steps(int rows) const {
    return num_wide(rows) * num_n + num_rest(rows) * ((num_n + kCluster - 1) / kCluster);
  }
  __device__ int num_steps() const { return first_step[num_experts]; }

  // What block `rank` of the cluster does in a step.
  __device__ GemmBlock block(int step, int rank) const {
    int low = 0, high = num_experts;  // first_step[low] <= step < first_step[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_step[middle] <= step ? low : high) = middle;
    }
    const int rows = counts[low], wide = num_wide(rows);
    int local = step - first_step[low];
    if (local < wide * num_n) {
      const int group = local / (kGroupM * num_n);
      const int group_m = min(kGroupM, wide - group * kGroupM);
      local -= group * kGroupM * num_n;
      return {low, (group * kGroupM + local % group_m) * kCluster + rank, local / group_m, false};
    }
    local -= wide * num_n;
    const int rest = num_rest(rows);
    return {low, wide * kCluster + local % rest, local / rest * kCluster + rank, true};
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

// ---- the thread that loads

template <int kM, int kN, int kStages, int kCluster>
class Loader {
 public:
  using Shared = GemmShared<kM, kN, kStages>;
  using Schedule = GemmSchedule<kM, kCluster>;

  __device__ Loader(const GemmParams& params, const Shared& shared_memory, int cluster_rank)
      : p(params),
        shared(shared_memory),
        rank(cluster_rank),
        keep_weights(p.stream_weights ? ptx::L2Keep::First : ptx::L2Keep::Normal) {}

  __device__ void run(const Schedule& schedule) {
    const int num_k = (p.k + kTileInner - 1) / kTileInner, num_steps = schedule.num_steps();
    for (int step = blockIdx.x / kCluster; step < num_steps; step += gridDim.x / kCluster) {
      const GemmBlock block = schedule.block(step, rank);
      const int rows = min(kM, schedule.counts[block.expert] - block.m * kM);
      const int num_boxes = (rows + kBoxRows - 1) / kBoxRows;
      const int row = static_cast<int>(p.first_row[block.expert]) + block.m * kM;
      for (int kb = 0; kb < num_k; ++kb, at.advance()) {
        ptx::barrier_wait(&shared.empty[at.stage], at.parity ^ 1);
        ptx::barrier_arrive_expect(&shared.full[at.stage], num_boxes * kBoxBytes + kWeightBytes);
        load_weights(block, kb * kTileInner);
        load_rows(block, kb * kTileInner, row, num_boxes);
      }
    }
  }

 private:
  static constexpr int kBoxRows = kRowsPerBox<kM>, kBoxBytes = kBoxRows * kTileInner * 2;
  // Of weights: as much as one block of a cluster loads for all.
  static constexpr int kPartRows = kN / kCluster, kPartBytes = kPartRows * kTileInner * 2;
  static constexpr int kWeightBytes = kN * kTileInner * 2;
  static constexpr uint16_t kAll = (1 << kCluster) - 1;

  __device__ void load_weights(const GemmBlock& block, int k) const {
    for (int part = 0; part < kCluster; ++part) {
      if (!block.shares_rows && part != rank) continue;  // the other block brings it
      const int row = block.n * kN + part * kPartRows;
      uint8_t* dst = shared.weights(at.stage) + part * kPartBytes;
      uint64_t* full = &shared.full[at.stage];
      const bool to_all = kCluster > 1 && !block.shares_rows;
      if (p.gated) {
        to_all
            ? ptx::load_box_to(kAll, dst, &p.weights, full, keep_weights, k, 0, 0, row / 16,
                               block.expert)
            : ptx::load_box(dst, &p.weights, full, keep_weights, k, 0, 0, row / 16, block.expert);
      } else {
        to_all ? ptx::load_box_to(kAll, dst, &p.weights, full, keep_weights, k, row, block.expert)
               : ptx::load_box(dst, &p.weights, full, keep_weights, k, row, block.expert);
      }
    }
  }

  __device__ void load_rows(const GemmBlock& block, int k, int row, int num_boxes) const {
    const bool to_all = kCluster > 1 && block.shares_rows;
    for (int b = 0; b < num_boxes; ++b) {
      if (to_all && b % kCluster != rank) continue;
      uint8_t* dst = shared.src(at.stage) + b * kBoxBytes;
      uint64_t* full = &shared.full[at.stage];
      to_all ? ptx::load_box_to(kAll, dst, &p.src, full, ptx::L2Keep::Last, k, row + b * kBoxRows)
             : ptx::load_box(dst, &p.src, full, ptx::L2Keep::Last, k, row + b * kBoxRows);
    }
  }

  const GemmParams& p;
  const Shared& shared;
  const int rank;
  const ptx::L2Keep keep_weights;
  PipelinePosition<kStages> at;
};

// ---- the warpgroups that multiply

// What a warp has made: 16 rows x kN weight rows, in its accumulators.
struct WarpTile {
  int64_t first_row;  // of dst
  int num_rows;       // valid ones, at most 16
  int expert;
  int first_col;  // of dst
  int lane;
};

template <int kN>
__device__ void scale_rows(float (&acc)[kN / 2], const GemmParams& p, const WarpTile& t) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = t.lane / 4 + 8 * h;
    const float scale = row < t.num_rows ? p.row_weights[p.slot_of_row[t.first_row + row]] : 1.0f;
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      acc[4 * j + 2 * h] *= scale;
      acc[4 * j + 2 * h + 1] *= scale;
    }
  }
}

template <int kN>
__device__ void add_bias(float (&acc)[kN / 2], const GemmParams& p, const WarpTile& t) {
  const float* bias = p.bias + int64_t{t.expert} * p.n;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int col = t.first_col + 8 * (p.gated ? j / 2 : j) + 2 * (t.lane % 4) + i;
      if (col >= p.width) continue;
      const float b = bias[p.gated && j % 2 ? p.width + col : col];
      acc[4 * j + i] += b;
      acc[4 * j + 2 + i] += b;
    }
}

// acc[4 q + i] = activation of the sums of output group q; gated ones move down into its half.
template <int kN, ActivationKind kKind>
__device__ void activate_tile(float (&acc)[kN / 2], const GemmParams& p) {
  if constexpr (kKind == ActivationKind::Relu2) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) acc[i] = activate<kKind>(acc[i], acc[i], p.alpha, p.limit);
  } else {
#pragma unroll
    for (int q = 0; q < kN / 16; ++q)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float first = acc[8 * q + i], second = acc[8 * q + 4 + i];
        acc[4 * q + i] = activate<kKind>(p.up_first ? second : first, p.up_first ? first : second,
                                         p.alpha, p.limit);
      }
  }
}

template <int kN>
__device__ void activate_tile(float (&acc)[kN / 2], const GemmParams& p) {
  switch (static_cast<ActivationKind>(p.activation)) {
    case ActivationKind::SiluGated: return activate_tile<kN, ActivationKind::SiluGated>(acc, p);
    case ActivationKind::GeluGated: return activate_tile<kN, ActivationKind::GeluGated>(acc, p);
    case ActivationKind::GeluTanhGated:
      return activate_tile<kN, ActivationKind::GeluTanhGated>(acc, p);
    case ActivationKind::ClampedSwiglu:
      return activate_tile<kN, ActivationKind::ClampedSwiglu>(acc, p);
    case ActivationKind::Relu2: return activate_tile<kN, ActivationKind::Relu2>(acc, p);
  }
}

template <int kCols, int kSums>
__device__ void store_f32(const float (&acc)[kSums], const GemmParams& p, const WarpTile& t) {
  auto* dst = static_cast<float*>(p.dst);
#pragma unroll
  for (int q = 0; q < kCols / 8; ++q)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = t.lane / 4 + i / 2 * 8, col = t.first_col + 8 * q + 2 * (t.lane % 4) + i % 2;
      if (row < t.num_rows && col < p.width)
        dst[(t.first_row + row) * p.width + col] = acc[4 * q + i];
    }
}

// Through shared memory, 64 columns at a time, so that rows leave in pieces of 128 bytes.
template <int kCols, int kSums>
__device__ void store_bf16(const float (&acc)[kSums], const GemmParams& p, const WarpTile& t,
                           uint8_t* staging) {
  uint8_t* mine = staging + t.lane / 4 * kStagingPitch + t.lane % 4 * 4;
  const uint8_t* theirs = staging + t.lane / 8 * kStagingPitch + t.lane % 8 * 16;
  auto* dst = static_cast<__nv_bfloat16*>(p.dst) + (t.first_row + t.lane / 8) * p.width +
              t.first_col + t.lane % 8 * 8;
#pragma unroll
  for (int chunk = 0; chunk < kCols / 64; ++chunk) {
    if (t.first_col + chunk * 64 >= p.width) break;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float* sums = acc + 4 * (chunk * 8 + j);
      auto* top = reinterpret_cast<__nv_bfloat162*>(mine + 16 * j);
      auto* bottom = reinterpret_cast<__nv_bfloat162*>(mine + 16 * j + 8 * kStagingPitch);
      *top = __floats2bfloat162_rn(sums[0], sums[1]);
      *bottom = __floats2bfloat162_rn(sums[2], sums[3]);
    }
    __syncwarp();
    if (t.first_col + chunk * 64 + t.lane % 8 * 8 < p.width) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i * 4 + t.lane / 8 < t.num_rows)
          *reinterpret_cast<uint4*>(dst + int64_t{i} * 4 * p.width + chunk * 64) =
              *reinterpret_cast<const uint4*>(theirs + i * 4 * kStagingPitch);
    }
    __syncwarp();
  }
}

template <int kN>
__device__ void write_tile(float (&acc)[kN / 2], const GemmParams& p, const WarpTile& t,
                           uint8_t* staging) {
  if (p.row_weights) scale_rows<kN>(acc, p, t);
  if (p.bias) add_bias<kN>(acc, p, t);
  if (p.activation >= 0) activate_tile<kN>(acc, p);
  if (p.dst_is_f32)
    p.gated ? store_f32<kN / 2>(acc, p, t) : store_f32<kN>(acc, p, t);
  else
    p.gated ? store_bf16<kN / 2>(acc, p, t, staging) : store_bf16<kN>(acc, p, t, staging);
}

// acc = 64 rows x kN over the whole inner dimension. One product stays in flight while the next
// stage is waited for. A warpgroup without rows only lets the stages pass.
template <int kM, int kN, int kStages, int kCluster>
__device__ void multiply(float (&acc)[kN / 2], const GemmShared<kM, kN, kStages>& shared,
                         PipelinePosition<kStages>& at, int num_k, int warpgroup, bool has_rows) {
  // A stage is free once every block that loads into it knows: lane i of a warp tells block i.
  const int lane = threadIdx.x % 32;
  const auto release = [&](int stage) {
    if (stage < 0 || lane >= kCluster) return;
    kCluster == 1 ? ptx::barrier_arrive(&shared.empty[stage])
                  : ptx::barrier_arrive(&shared.empty[stage], lane);
  };
  int previous = -1;
  for (int kb = 0; kb < num_k; ++kb, at.advance()) {
    ptx::barrier_wait(&shared.full[at.stage], at.parity);
    if (!has_rows) {
      release(at.stage);
      continue;
    }
    const uint64_t a = ptx::matrix_descriptor(
        ptx::shared_address(shared.src(at.stage) + warpgroup * 64 * kTileInner * 2));
    const uint64_t b = ptx::matrix_descriptor(ptx::shared_address(shared.weights(at.stage)));
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileInner / 16; ++i)  // 16 elements are 32 bytes: 2 in a descriptor
      ptx::wgmma_k16<kN>(acc, a + 2 * i, b + 2 * i, kb > 0 || i > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    release(previous);
    previous = at.stage;
  }
  ptx::wgmma_wait<0>();
  release(previous);
}

template <int kM, int kN, int kStages, int kCluster>
__device__ void multiply_tiles(const GemmParams& p, const GemmShared<kM, kN, kStages>& shared,
                               const GemmSchedule<kM, kCluster>& schedule, int rank) {
  const int warp = threadIdx.x / 32, warpgroup = warp / 4;
  const int num_k = (p.k + kTileInner - 1) / kTileInner, num_steps = schedule.num_steps();
  PipelinePosition<kStages> at;
  float acc[kN / 2];
  for (int step = blockIdx.x / kCluster; step < num_steps; step += gridDim.x / kCluster) {
    const GemmBlock block = schedule.block(step, rank);
    const int rows = min(kM, schedule.counts[block.expert] - block.m * kM);
    multiply<kM, kN, kStages, kCluster>(acc, shared, at, num_k, warpgroup, rows > warpgroup * 64);
    const WarpTile mine{p.first_row[block.expert] + block.m * kM + warp * 16,
                        min(16, rows - warp * 16), block.expert, block.n * (p.gated ? kN / 2 : kN),
                        static_cast<int>(threadIdx.x % 32)};
    if (mine.num_rows > 0) write_tile<kN>(acc, p, mine, shared.staging + warp * 16 * kStagingPitch);
  }
}

template <int kM>
inline constexpr int kMathThreads = kM / 64 * 128;

template <int kM, int kN, int kStages, int kCluster>
__global__ __launch_bounds__(kMathThreads<kM> + 128,
                             1) void grouped_gemm_kernel(const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(1024) uint8_t base[];
  const GemmShared<kM, kN, kStages> shared(base);
  const int rank = kCluster > 1 ? ptx::cluster_rank() : 0;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      ptx::barrier_init(&shared.full[s], 1);
      ptx::barrier_init(&shared.empty[s], kMathThreads<kM> / 32 * kCluster);
    }
    ptx::fence_barrier_init();
    ptx::prefetch_map(&p.src);
    ptx::prefetch_map(&p.weights);
  }
  wait_for_predecessor();
  allow_successor();
  const int tile_cols = p.gated ? kN / 2 : kN;
  const GemmSchedule<kM, kCluster> schedule{shared.first_step, p.counts, p.num_experts,
                                            (p.width + tile_cols - 1) / tile_cols};
  count_steps(schedule, shared.first_step, shared.warp_sums);
  if constexpr (kCluster > 1) ptx::cluster_sync();  // the other block's barriers are ready

  // 65,536 registers: two warpgroups that multiply need more than a third each.
  constexpr bool kMoveRegisters = kMathThreads < kM >> 128;
  if (threadIdx.x >= kMathThreads<kM>) {
    if constexpr (kMoveRegisters) ptx::shrink_registers<56>();
    if (threadIdx.x == kMathThreads<kM>) {
      Loader<kM, kN, kStages, kCluster>(p, shared, rank).run(schedule);
      if constexpr (kCluster > 1) ptx::cluster_sync_alone();
    }
  } else {
    if constexpr (kMoveRegisters) ptx::grow_registers<224>();
    multiply_tiles(p, shared, schedule, rank);
    // The other block may still fill this one's stages, and tell it of its own.
    if constexpr (kCluster > 1) ptx::cluster_sync();
  }
}

}  // namespace switchyard::cuda
