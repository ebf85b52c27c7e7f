// src/cuda/grouped_gemm/grouped_gemm.cuh -- the grouped GEMM of Hopper: TMA, wgmma, persistent.
//
//     s = src[r, :] weights[e, j, :]^T * scale[r] + bias[e, j]     dst[r, c] = activation(s_1, s_2)
//
// for the rows [first_row[e], first_row[e] + counts[e]) of each expert e. One block per SM takes tiles
// kM rows x kN weight rows until none is left; a tile never spans two experts, rows past an expert's
// last are neither stored nor, where whole boxes of rows are idle, loaded. The last warpgroup loads
// (one thread), the others multiply: 64 rows x kN each, and write what they made.
//
// A gated tile holds kN / 2 gate rows and the kN / 2 up rows that go with them, alternating in eights:
// the tensor map of W1 [2I, k] has the dimensions (k, 8, 2 halves, I / 8, E), so the copy engine
// interleaves them and the weights stay as they are in the checkpoint. One thread then holds s_1 and
// s_2 of an output in acc[8 q + i] and acc[8 q + 4 + i].
//
// Order of summation: the inner dimension ascending in steps of 16, one fp32 accumulator, whatever the
// tile. Bound: tensor cores with many rows per expert, the bytes of the weights with few.
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
  int32_t* first_block;    // [E + 1] row tiles of the experts before e

  __device__ explicit GemmShared(uint8_t* base)
      : stages(base),
        staging(stages + kStages * kStageBytes),
        full(reinterpret_cast<uint64_t*>(staging + kM * kStagingPitch)),
        empty(full + kStages),
        warp_sums(reinterpret_cast<int32_t*>(empty + kStages)),
        first_block(warp_sums + 32) {}

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

// first_block[e] = row tiles of the experts before e, by the whole thread block.
template <int kM>
__device__ void count_blocks(int32_t* first_block, int32_t* warp_sums, const int32_t* counts,
                             int num_experts) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  const int share = (num_experts + blockDim.x - 1) / blockDim.x;
  const int begin = min(static_cast<int>(threadIdx.x) * share, num_experts);
  const int end = min(begin + share, num_experts);
  int mine = 0;
  for (int e = begin; e < end; ++e) mine += (counts[e] + kM - 1) / kM;
  int before = mine;  // inclusive over the warp
  for (int d = 1; d < 32; d *= 2) {
    const int other = __shfl_up_sync(~0u, before, d);
    if (lane >= d) before += other;
  }
  if (lane == 31) warp_sums[warp] = before;
  __syncthreads();
  before -= mine;
  for (int w = 0; w < warp; ++w) before += warp_sums[w];
  for (int e = begin; e < end; ++e) {
    first_block[e] = before;
    before += (counts[e] + kM - 1) / kM;
  }
  if (threadIdx.x == 0) {
    int all = 0;
    for (int w = 0; w < num_warps; ++w) all += warp_sums[w];
    first_block[num_experts] = all;
  }
  __syncthreads();
}

struct GemmBlock {
  int expert, m, n;  // tile of rows within the expert, tile of weight rows
};

// Tiles in order of expert, then in groups of kGroupM row tiles that walk along n together: what the
// SMs work on at one time shares rows and weights in L2.
struct GemmSchedule {
  static constexpr int kGroupM = 16;

  const int32_t* first_block;
  int num_experts, num_n;

  __device__ int64_t num_blocks() const { return int64_t{first_block[num_experts]} * num_n; }

  __device__ GemmBlock operator[](int64_t index) const {
    const auto row_tile = static_cast<int32_t>(index / num_n);
    int low = 0, high = num_experts;  // first_block[low] <= row_tile < first_block[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_block[middle] <= row_tile ? low : high) = middle;
    }
    const int num_m = first_block[low + 1] - first_block[low];
    const int64_t local = index - int64_t{first_block[low]} * num_n;
    const int group = static_cast<int>(local / (kGroupM * num_n));
    const int group_m = min(kGroupM, num_m - group * kGroupM);
    const int within = static_cast<int>(local - int64_t{group} * kGroupM * num_n);
    return {low, group * kGroupM + within % group_m, within / group_m};
  }
};

// ---- the thread that loads

template <int kM, int kN, int kStages>
__device__ void load_tiles(const GemmParams& p, const GemmShared<kM, kN, kStages>& shared,
                           const GemmSchedule& schedule) {
  constexpr int kBox = kRowsPerBox<kM>, kBoxBytes = kBox * kTileInner * 2;
  const auto keep_weights = p.stream_weights ? ptx::L2Keep::First : ptx::L2Keep::Normal;
  const int num_k = (p.k + kTileInner - 1) / kTileInner;
  const int64_t num_blocks = schedule.num_blocks();
  PipelinePosition<kStages> at;
  for (int64_t index = blockIdx.x; index < num_blocks; index += gridDim.x) {
    const GemmBlock block = schedule[index];
    const int rows = min(kM, p.counts[block.expert] - block.m * kM);
    const int num_boxes = (rows + kBox - 1) / kBox;
    const int row = static_cast<int>(p.first_row[block.expert]) + block.m * kM;
    for (int kb = 0; kb < num_k; ++kb, at.advance()) {
      uint64_t* full = &shared.full[at.stage];
      ptx::barrier_wait(&shared.empty[at.stage], at.parity ^ 1);
      ptx::barrier_arrive_expect(full, num_boxes * kBoxBytes + kN * kTileInner * 2);
      if (p.gated)
        ptx::load_box(shared.weights(at.stage), &p.weights, full, keep_weights, kb * kTileInner, 0,
                      0, block.n * (kN / 16), block.expert);
      else
        ptx::load_box(shared.weights(at.stage), &p.weights, full, keep_weights, kb * kTileInner,
                      block.n * kN, block.expert);
      for (int b = 0; b < num_boxes; ++b)
        ptx::load_box(shared.src(at.stage) + b * kBoxBytes, &p.src, full, ptx::L2Keep::Last,
                      kb * kTileInner, row + b * kBox);
    }
  }
}

// ---- the warpgroups that multiply

// 16 rows of one warp, from its accumulators to dst.
struct WarpRows {
  int64_t first;  // row of dst
  int num;        // valid ones, at most 16
};

template <int kN, int kActivation>
struct Epilogue {
  static constexpr bool kGated =
      kActivation >= 0 && kActivation != static_cast<int>(ActivationKind::Relu2);
  static constexpr int kCols = kGated ? kN / 2 : kN;  // of dst in a tile

  const GemmParams& p;
  const float (&acc)[kN / 2];
  WarpRows rows;
  int expert, first_col, lane;
  float scale[2];

  __device__ float bias_of(int row) const {
    return p.bias && row < p.n ? p.bias[int64_t{expert} * p.n + row] : 0.0f;
  }
  // The output at column `col` of dst, from the group q of 8 columns, row half h, column i of two.
  __device__ float value(int q, int h, int i, int col) const {
    if constexpr (kGated) {
      const float first = acc[8 * q + 2 * h + i] * scale[h] + bias_of(col);
      const float second = acc[8 * q + 4 + 2 * h + i] * scale[h] + bias_of(p.width + col);
      return activate<static_cast<ActivationKind>(kActivation)>(
          p.up_first ? second : first, p.up_first ? first : second, p.alpha, p.limit);
    } else {
      const float sum = acc[4 * q + 2 * h + i] * scale[h] + bias_of(col);
      if constexpr (kActivation < 0) return sum;
      return activate<static_cast<ActivationKind>(kActivation < 0 ? 0 : kActivation)>(
          sum, sum, p.alpha, p.limit);
    }
  }

  __device__ void store_f32() const {
    auto* dst = static_cast<float*>(p.dst);
#pragma unroll
    for (int q = 0; q < kCols / 8; ++q)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int col = first_col + 8 * q + 2 * (lane % 4) + i, row = lane / 4 + 8 * h;
          if (row < rows.num && col < p.width)
            dst[(rows.first + row) * p.width + col] = value(q, h, i, col);
        }
  }

  // Through shared memory, 64 columns at a time, so that rows leave in pieces of 128 bytes.
  __device__ void store_bf16(uint8_t* staging) const {
    auto* dst = static_cast<__nv_bfloat16*>(p.dst);
#pragma unroll
    for (int chunk = 0; chunk < kCols / 64; ++chunk) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int q = chunk * 8 + j, col = first_col + 8 * q + 2 * (lane % 4);
          const auto pair =
              __floats2bfloat162_rn(value(q, h, 0, col), value(q, h, 1, col + 1));
          *reinterpret_cast<__nv_bfloat162*>(staging + (lane / 4 + 8 * h) * kStagingPitch +
                                             (8 * j + 2 * (lane % 4)) * 2) = pair;
        }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i * 4 + lane / 8, piece = lane % 8;
        const int col = first_col + chunk * 64 + piece * 8;
        if (row < rows.num && col < p.width)
          *reinterpret_cast<uint4*>(dst + (rows.first + row) * p.width + col) =
              *reinterpret_cast<const uint4*>(staging + row * kStagingPitch + piece * 16);
      }
      __syncwarp();
    }
  }
};

template <int kN, int kActivation>
__device__ void write_rows(const GemmParams& p, const float (&acc)[kN / 2], WarpRows rows,
                           int expert, int n_block, uint8_t* staging) {
  using E = Epilogue<kN, kActivation>;
  E e{p, acc, rows, expert, n_block * E::kCols, static_cast<int>(threadIdx.x % 32), {1, 1}};
  if (p.row_weights)
    for (int h = 0; h < 2; ++h)
      if (const int row = e.lane / 4 + 8 * h; row < rows.num)
        e.scale[h] = p.row_weights[p.slot_of_row[rows.first + row]];
  p.dst_is_f32 ? e.store_f32() : e.store_bf16(staging);
}

template <int kN>
__device__ void write_rows(const GemmParams& p, const float (&acc)[kN / 2], WarpRows rows,
                           int expert, int n_block, uint8_t* staging) {
  switch (p.activation) {
#define SWITCHYARD_CASE(kind)                                                               \
  case static_cast<int>(ActivationKind::kind):                                              \
    return write_rows<kN, static_cast<int>(ActivationKind::kind)>(p, acc, rows, expert, n_block, \
                                                                  staging)
    SWITCHYARD_CASE(SiluGated);
    SWITCHYARD_CASE(GeluGated);
    SWITCHYARD_CASE(GeluTanhGated);
    SWITCHYARD_CASE(ClampedSwiglu);
    SWITCHYARD_CASE(Relu2);
#undef SWITCHYARD_CASE
    default: return write_rows<kN, -1>(p, acc, rows, expert, n_block, staging);
  }
}

// acc = 64 rows x kN over the whole inner dimension. One product stays in flight while the next stage
// is waited for. A warpgroup without rows only lets the stages pass.
template <int kM, int kN, int kStages>
__device__ void multiply(float (&acc)[kN / 2], const GemmShared<kM, kN, kStages>& shared,
                         PipelinePosition<kStages>& at, int num_k, int warpgroup, bool has_rows) {
  const bool speaks = threadIdx.x % 32 == 0;  // for its warp
  int previous = -1;
  for (int kb = 0; kb < num_k; ++kb, at.advance()) {
    ptx::barrier_wait(&shared.full[at.stage], at.parity);
    if (!has_rows) {
      if (speaks) ptx::barrier_arrive(&shared.empty[at.stage]);
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
    if (previous >= 0 && speaks) ptx::barrier_arrive(&shared.empty[previous]);
    previous = at.stage;
  }
  ptx::wgmma_wait<0>();
  if (previous >= 0 && speaks) ptx::barrier_arrive(&shared.empty[previous]);
}

template <int kM, int kN, int kStages>
__device__ void multiply_tiles(const GemmParams& p, const GemmShared<kM, kN, kStages>& shared,
                               const GemmSchedule& schedule) {
  const int warp = threadIdx.x / 32, warpgroup = warp / 4;
  const int num_k = (p.k + kTileInner - 1) / kTileInner;
  const int64_t num_blocks = schedule.num_blocks();
  PipelinePosition<kStages> at;
  float acc[kN / 2];
  for (int64_t index = blockIdx.x; index < num_blocks; index += gridDim.x) {
    const GemmBlock block = schedule[index];
    const int rows = min(kM, p.counts[block.expert] - block.m * kM);
    const bool has_rows = rows > warpgroup * 64;
    multiply(acc, shared, at, num_k, warpgroup, has_rows);
    const WarpRows mine{p.first_row[block.expert] + block.m * kM + warp * 16,
                        min(16, rows - warp * 16)};
    if (mine.num > 0)
      write_rows<kN>(p, acc, mine, block.expert, block.n,
                     shared.staging + warp * 16 * kStagingPitch);
  }
}

template <int kM>
inline constexpr int kMathThreads = kM / 64 * 128;

template <int kM, int kN, int kStages>
__global__ __launch_bounds__(kMathThreads<kM> + 128, 1) void grouped_gemm_kernel(
    const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(1024) uint8_t base[];
  const GemmShared<kM, kN, kStages> shared(base);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      ptx::barrier_init(&shared.full[s], 1);
      ptx::barrier_init(&shared.empty[s], kMathThreads<kM> / 32);
    }
    ptx::fence_barrier_init();
    ptx::prefetch_map(&p.src);
    ptx::prefetch_map(&p.weights);
  }
  wait_for_predecessor();
  allow_successor();
  count_blocks<kM>(shared.first_block, shared.warp_sums, p.counts, p.num_experts);
  const int tile_cols = p.gated ? kN / 2 : kN;
  const GemmSchedule schedule{shared.first_block, p.num_experts,
                              (p.width + tile_cols - 1) / tile_cols};

  // 65,536 registers: two warpgroups that multiply need more than a third each.
  constexpr bool kMoveRegisters = kMathThreads<kM> > 128;
  if (threadIdx.x >= kMathThreads<kM>) {
    if constexpr (kMoveRegisters) ptx::shrink_registers<56>();
    if (threadIdx.x == kMathThreads<kM>) load_tiles(p, shared, schedule);
  } else {
    if constexpr (kMoveRegisters) ptx::grow_registers<224>();
    multiply_tiles(p, shared, schedule);
  }
}

}  // namespace switchyard::cuda
