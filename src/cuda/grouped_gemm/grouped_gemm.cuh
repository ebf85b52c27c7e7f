// src/cuda/grouped_gemm/grouped_gemm.cuh -- the grouped GEMM of Hopper: TMA, wgmma, persistent.
//
//     s = src[r, :] weights[e, j, :]^T * scale[r] + bias[e, j]     dst[r, c] = activation(s_1, s_2)
//
// for the rows [first_row[e], first_row[e] + counts[e]) of each expert e. The product is formed
// transposed, weights times rows: the instruction multiplies 64 of its first operand by any
// multiple of 16 of its second, and an expert has any number of rows, but weights come in hundreds.
// An expert's rows are divided into as few tiles of at most kRows as hold them, all but the last
// equal.
//
// One block per SM takes tiles of kWeights weight rows x one tile of rows until none is left. The
// last warpgroup loads (one thread), the others multiply: 64 weight rows each, and write what they
// made. Two blocks of a cluster take neighbouring weights with the same rows, each loading half of
// the rows for both. Tiles differ, and so do SMs: so that all end together, the last ones go to who
// comes first, by a counter in memory. Who takes a tile changes no bit of it.
//
// A gated tile holds kWeights / 2 gate rows and the up rows that go with them, alternating in
// eights: the tensor map of W1 [2I, k] has the dimensions (k, 8, 2 halves, I / 8, E), so the copy
// engine interleaves them and the weights stay as they are in the checkpoint. One thread then holds
// s_1 and s_2 of an output in acc[4 j + i] and acc[4 j + 2 + i].
//
// Order of summation: the inner dimension ascending in steps of 16, one fp32 accumulator, whatever
// the tile. Bound: tensor cores with many rows per expert, the bytes of the weights with few.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx/atom.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cp_async_bulk.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/stmatrix.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "strategy/gemm_configs.h"

namespace switchyard::cuda {

struct Bf16Operands {
  static constexpr OperandKind kKind = OperandKind::Bf16;
};
struct TmaRows {
  static constexpr ProducerKind kKind = ProducerKind::TmaRows;
};

struct GemmParams {
  CUtensorMap src, weights;
  CUtensorMap dst_boxes;       // of dst where it is bf16
  void* dst;                   // bf16 or f32 [C, width]
  const int32_t* counts;       // [E]
  const int64_t* first_row;    // [E + 1]
  int32_t* next_step;          // 0 before the call and after it; null: no step is drawn
  const float* bias;           // [E, n] or null
  const float* row_weights;    // by slot, or null
  const int32_t* slot_of_row;  // [C], with row_weights
  int num_experts, n, k, width;
  int activation;  // an ActivationKind, or -1
  float alpha, limit;
  bool gated, up_first, dst_is_f32;
  bool stream_weights;  // most experts have one tile of rows: their weights are read once
};

// Rows of src that one copy brings: small ones where most of a tile's rows may be idle.
constexpr int rows_per_box(const GemmConfig& t) {
  return t.rows <= 64 ? 16 : 32;
}
// What a warp stores at once: a quarter of its warpgroup's buffer, all columns of the warpgroup.
constexpr int store_box_cols(bool gated) {
  return gated ? 32 : 64;
}
constexpr int store_box_rows(bool gated) {
  return kStagingBytes / 4 / (2 * store_box_cols(gated));
}
// Where a ring of stages or steps stands: the same sequence for the thread that loads and those
// that multiply.
template <int kStages>
struct PipelinePosition {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// The steps that clusters take, in order of expert: every tile of rows with every kCluster tiles of
// weights. Groups of tiles of rows walk along the weights together: what the SMs work on at one
// time is then shared in L2.
template <GemmConfig kConfig>
struct GemmSchedule {
  static constexpr int kGroup = 8;  // tiles of rows

  const int32_t* first_step;
  const int32_t* counts;
  const int64_t* first_row;
  int num_experts, num_weights;  // of weights: tiles for each block of a cluster

  static __device__ int num_tiles(int rows) { return (rows + kConfig.rows - 1) / kConfig.rows; }
  __device__ int num_steps(int rows) const { return num_tiles(rows) * num_weights; }
  __device__ int num_steps() const { return first_step[num_experts]; }

  // What block `rank` of the cluster does in a step.
  __device__ GemmStep block(int step, int rank) const {
    int low = 0, high = num_experts;  // first_step[low] <= step < first_step[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_step[middle] <= step ? low : high) = middle;
    }
    const int rows = counts[low], tiles = num_tiles(rows);
    // A multiple of 16. The last tile has the rest, at least one row: with t > 1 tiles there are
    // more than (t - 1) kRows rows, and no tile takes more than kRows.
    const int tile_rows = ((rows + tiles - 1) / tiles + 15) / 16 * 16;
    int local = step - first_step[low];
    const int group = local / (kGroup * num_weights);
    const int group_tiles = min(kGroup, tiles - group * kGroup);
    local -= group * kGroup * num_weights;
    const int first = (group * kGroup + local % group_tiles) * tile_rows;
    return {first_row[low] + first, min(tile_rows, rows - first), low,
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

// ---- the thread that loads

// Which steps a cluster takes. The first ones are divided beforehand, every num_clusters-th for
// each: clusters then stay side by side, and those with the same weights or rows share what L2
// sends. The others are drawn. Every cluster draws after its last divided step and after every
// drawn one: then the counter is 0 again. One block of a cluster draws and tells the other.
template <GemmConfig kConfig>
class StepDraw {
 public:
  __device__ StepDraw(const GemmParams& params, SharedStorage<kConfig>& shared_memory,
                      int cluster_rank, int number_of_steps)
      : p(params), shared(shared_memory), rank(cluster_rank), num_steps(number_of_steps) {
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
  __device__ void tell() {
    if (!kPair || !draws || rank > 0) return;
    const int slot = num_told++ % kToldSteps;
    ptx::st_async_mapa(1, &shared.told_steps[slot], drawn, &shared.told[slot]);
  }
  __device__ int next() { return first_drawn + (kPair && draws && rank > 0 ? hear() : drawn); }

 private:
  static constexpr bool kPair = kConfig.cluster() > 1;
  static_assert(kConfig.cluster() <= 2);
  static constexpr int kDrawnWaves = 8;  // more than clusters drift apart

  static __device__ int num_clusters() { return gridDim.x / kConfig.cluster(); }

  __device__ int hear() {
    const int slot = num_told % kToldSteps, parity = num_told++ / kToldSteps % 2;
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared,
                                   &shared.told[slot], sizeof(int32_t));
    ptx::mbarrier_wait_parity(&shared.told[slot], parity);
    return *static_cast<volatile int32_t*>(&shared.told_steps[slot]);
  }

  const GemmParams& p;
  SharedStorage<kConfig>& shared;
  const int rank, num_steps;
  int first_drawn;
  bool draws = false;
  int drawn = 0;  // from first_drawn on
  uint32_t num_told = 0;
};

template <GemmConfig kConfig>
class Loader {
 public:
  __device__ Loader(const GemmParams& params, SharedStorage<kConfig>& shared_memory,
                    int cluster_rank)
      : p(params),
        shared(shared_memory),
        rank(cluster_rank),
        keep_weights(p.stream_weights ? ptx::L2CacheHint::EvictFirst
                                      : ptx::L2CacheHint::EvictNormal) {}

  __device__ void run(const GemmSchedule<kConfig>& schedule) {
    const int num_k = (p.k + kConfig.inner() - 1) / kConfig.inner(),
              num_steps = schedule.num_steps();
    StepDraw<kConfig> draw(p, shared, rank, num_steps);
    for (int step = draw.first(); step < num_steps; step = draw.next()) {
      const GemmStep block = schedule.block(step, rank);
      draw.ask(step);
      const int num_boxes = (block.num_rows + kBoxRows - 1) / kBoxRows;
      const int row = static_cast<int>(block.first_row);
      for (int kb = 0; kb < num_k; ++kb, at.advance()) {
        ptx::mbarrier_wait_parity(&shared.empty[at.stage], at.parity ^ 1);
        if (kb == 0) shared.steps[slot.stage] = block, slot.advance();
        ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared,
                                       &shared.full[at.stage],
                                       num_boxes * kBoxBytes + kWeightBytes);
        load_weights(block, kb * kConfig.inner());
        load_rows(kb * kConfig.inner(), row, num_boxes);
        if (kb == num_k / 2) draw.tell();
      }
    }
    ptx::mbarrier_wait_parity(&shared.empty[at.stage], at.parity ^ 1);
    shared.steps[slot.stage] = {};
    ptx::mbarrier_arrive(&shared.full[at.stage]);
  }

 private:
  static constexpr int kBoxRows = rows_per_box(kConfig), kBoxBytes = kBoxRows * kStageRowBytes;
  static constexpr int kWeightBytes = kConfig.weights * kStageRowBytes;
  static constexpr uint16_t kAll = (1 << kConfig.cluster()) - 1;

  __device__ void load_weights(const GemmStep& block, int k) const {
    const int row = block.weights * kConfig.weights;
    uint8_t* dst = shared.weights(at.stage);
    uint64_t* full = &shared.full[at.stage];
    p.gated
        ? ptx::cp_async_bulk_tensor(dst, &p.weights, {k, 0, 0, row / 16, block.expert}, full,
                                    keep_weights)
        : ptx::cp_async_bulk_tensor(dst, &p.weights, {k, row, block.expert}, full, keep_weights);
  }

  __device__ void load_rows(int k, int row, int num_boxes) const {
    for (int b = kConfig.cluster() > 1 ? rank : 0; b < num_boxes; b += kConfig.cluster()) {
      uint8_t* dst = shared.rows(at.stage) + b * kBoxBytes;
      uint64_t* full = &shared.full[at.stage];
      if constexpr (kConfig.cluster() > 1)
        ptx::cp_async_bulk_tensor_multicast(dst, &p.src, {k, row + b * kBoxRows}, full, kAll,
                                            ptx::L2CacheHint::EvictLast);
      else
        ptx::cp_async_bulk_tensor(dst, &p.src, {k, row + b * kBoxRows}, full,
                                  ptx::L2CacheHint::EvictLast);
    }
  }

  const GemmParams& p;
  SharedStorage<kConfig>& shared;
  const int rank;
  const ptx::L2CacheHint keep_weights;
  PipelinePosition<kConfig.stages> at;
  PipelinePosition<SharedStorage<kConfig>::kStepSlots> slot;
};

// ---- the warpgroups that multiply

// What a warpgroup makes: the sums of 64 weight rows with a tile of rows.
struct GroupTile {
  int64_t first_row;  // of dst
  int num_rows;
  int expert;
  int first_col;  // of dst: 64 from here on, 32 if gated
};

// The sums of a thread, kRows / 2 of them. acc[4 j + 2 h + i] belongs to row 8 j + row_of(i) of the
// tile and to weight row 16 warp + 8 h + lane / 4 of the warpgroup.
struct Place {
  int lane, warp;  // within the warpgroup
  __device__ int row_of(int i) const { return 2 * (lane % 4) + i; }
  // The output's column, from the warpgroup's first on, that weight row h of a thread is part of.
  __device__ int col_of(bool gated, int h) const {
    return (gated ? warp * 8 : warp * 16 + 8 * h) + lane / 4;
  }
};

template <int kSums>
__device__ void scale_rows(float (&acc)[kSums], const GemmParams& p, const GroupTile& t,
                           const Place& at) {
#pragma unroll
  for (int j = 0; j < kSums / 4; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = 8 * j + at.row_of(i);
      const float scale = row < t.num_rows ? p.row_weights[p.slot_of_row[t.first_row + row]] : 1.0f;
      acc[4 * j + i] *= scale;
      acc[4 * j + 2 + i] *= scale;
    }
}

template <int kSums>
__device__ void add_bias(float (&acc)[kSums], const GemmParams& p, const GroupTile& t,
                         const Place& at) {
  const float* bias = p.bias + int64_t{t.expert} * p.n;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int col = t.first_col + at.col_of(p.gated, h);
    const float b = col < p.width ? bias[p.gated && h == 1 ? p.width + col : col] : 0.0f;
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      acc[4 * j + 2 * h] += b;
      acc[4 * j + 2 * h + 1] += b;
    }
  }
}

// acc[4 j + i] = activation of the sums of an output; without a gate also acc[4 j + 2 + i].
template <ActivationKind kKind, int kSums>
__device__ void activate_tile(float (&acc)[kSums], const GemmParams& p, const GroupTile& t) {
#pragma unroll
  for (int j = 0; j < kSums / 4; ++j) {
    // Seldom, so that many are in flight at a time.
    if (j % 8 == 0 && 8 * j >= t.num_rows) break;
    if constexpr (kKind == ActivationKind::Relu2) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        acc[4 * j + i] = activate<kKind>(acc[4 * j + i], acc[4 * j + i], p.alpha, p.limit);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float first = acc[4 * j + i], second = acc[4 * j + 2 + i];
        acc[4 * j + i] = activate<kKind>(p.up_first ? second : first, p.up_first ? first : second,
                                         p.alpha, p.limit);
      }
    }
  }
}

template <int kSums>
__device__ void activate_tile(float (&acc)[kSums], const GemmParams& p, const GroupTile& t) {
  switch (static_cast<ActivationKind>(p.activation)) {
    case ActivationKind::SiluGated: return activate_tile<ActivationKind::SiluGated>(acc, p, t);
    case ActivationKind::GeluGated: return activate_tile<ActivationKind::GeluGated>(acc, p, t);
    case ActivationKind::GeluTanhGated:
      return activate_tile<ActivationKind::GeluTanhGated>(acc, p, t);
    case ActivationKind::ClampedSwiglu:
      return activate_tile<ActivationKind::ClampedSwiglu>(acc, p, t);
    case ActivationKind::Relu2: return activate_tile<ActivationKind::Relu2>(acc, p, t);
    case ActivationKind::SiluOfClamped:
      return activate_tile<ActivationKind::SiluOfClamped>(acc, p, t);
    case ActivationKind::ClampedSilu: return activate_tile<ActivationKind::ClampedSilu>(acc, p, t);
    case ActivationKind::Situ: return activate_tile<ActivationKind::Situ>(acc, p, t);
  }
}

template <int kSums>
__device__ void store_f32(const float (&acc)[kSums], const GemmParams& p, const GroupTile& t,
                          const Place& at) {
  auto* dst = static_cast<float*>(p.dst) + t.first_row * p.width;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int col = t.first_col + at.col_of(p.gated, h);
    if (col >= p.width || (p.gated && h == 1)) continue;
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = 8 * j + at.row_of(i);
        if (row < t.num_rows) dst[int64_t{row} * p.width + col] = acc[4 * j + 2 * h + i];
      }
  }
}

// Rows of bf16 on their way out, as many at a time as one of the warpgroup's two buffers in shared
// memory holds: written there transposed, as rows of 64 columns (32 if gated), swizzled as the copy
// engine wants them (which also keeps a warp's writes on different banks), and stored by the copy
// engine while the warpgroup goes on. Each warp asks for a quarter of the rows, since a thread that
// asks for all spends 90 cycles on each box; rows that do not fill a box it stores itself.
class RowWriter {
 public:
  __device__ RowWriter(const GemmParams& params, uint8_t* staging, Place where, int its_barrier)
      : p(params), buffers(staging), place(where), barrier(its_barrier) {}

  template <bool kGated, int kSums>
  __device__ void store(const float (&acc)[kSums], const GroupTile& t) {
    constexpr int kRowBytes = 2 * store_box_cols(kGated), kBoxRows = store_box_rows(kGated);
    constexpr int kRows = 4 * kBoxRows;
#pragma unroll
    for (int first = 0; first < 2 * kSums; first += kRows) {
      if (first >= t.num_rows) break;
      uint8_t* buffer = buffers + (count++ % 2) * kStagingBytes;
      if (place.lane == 0) ptx::cp_async_bulk_wait_group_read(ptx::n32_t<1>{});
      ptx::bar_sync<128>(barrier);
      kGated ? put_gated<kRows>(acc, first, t.num_rows - first, buffer)
             : put<kRows>(acc, first, buffer);
      ptx::fence_proxy_async(ptx::space_shared);
      ptx::bar_sync<128>(barrier);
      const int box = place.warp * kBoxRows, rows = t.num_rows - first - box;
      const int64_t row = t.first_row + first + box;
      if (rows >= kBoxRows) {
        if (place.lane == 0)
          ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &p.dst_boxes,
                                    {t.first_col, static_cast<int>(row)}, buffer + box * kRowBytes);
      } else {
        store_some<kGated>(buffer + box * kRowBytes, rows, row, t.first_col);
      }
      if (place.lane == 0)
        ptx::cp_async_bulk_commit_group();  // also of none, so that groups count buffers
    }
  }

  // Before the block ends: its shared memory must outlive the copies, and the next kernel see them.
  __device__ void finish() const {
    ptx::cp_async_bulk_wait_group(ptx::n32_t<0>{});
  }

 private:
  // Where the copy engine looks for piece `j` of 16 bytes of a row.
  template <bool kGated>
  static __device__ uint8_t* at(uint8_t* buffer, int row, int j) {
    return kGated ? buffer + row * 64 + ((j ^ (row / 2 % 4)) * 16)
                  : buffer + row * 128 + ((j ^ (row % 8)) * 16);
  }

  // Four matrices of 8 rows x 8 columns at a time: two neighbours along the columns, two along the
  // rows.
  template <int kRows, int kSums>
  __device__ void put(const float (&acc)[kSums], int first, uint8_t* buffer) const {
    const int row = place.lane / 16 * 8 + place.lane % 8;
    const int piece = place.warp * 2 + place.lane / 8 % 2;
#pragma unroll
    for (int r = 0; r < kRows && first + r < 2 * kSums; r += 16) {
      const float* s = acc + (first + r) / 2;
      ptx::stmatrix_x4_trans(at<false>(buffer, r + row, piece), two_bf16(s[0], s[1]),
                             two_bf16(s[2], s[3]), two_bf16(s[4], s[5]), two_bf16(s[6], s[7]));
    }
  }
  // The same, four along the rows.
  template <int kRows, int kSums>
  __device__ void put_gated(const float (&acc)[kSums], int first, int rows, uint8_t* buffer) const {
#pragma unroll
    for (int r = 0; r < kRows && first + r < 2 * kSums; r += 32) {
      if (r % 64 == 0 && r >= rows) break;
      const float* s = acc + (first + r) / 2;
      ptx::stmatrix_x4_trans(at<true>(buffer, r + place.lane, place.warp), two_bf16(s[0], s[1]),
                             two_bf16(s[4], s[5]), two_bf16(s[8], s[9]), two_bf16(s[12], s[13]));
    }
  }

  // Fewer than a box, or none.
  template <bool kGated>
  __device__ void store_some(uint8_t* box, int rows, int64_t row, int first_col) const {
    constexpr int kPieces = kGated ? 4 : 8;
    const int piece = place.lane % kPieces, col = first_col + piece * 8;
    if (col >= p.width) return;
    auto* dst = static_cast<__nv_bfloat16*>(p.dst) + row * p.width + col;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = place.lane / kPieces + i * (32 / kPieces);
      if (r < rows)
        *reinterpret_cast<uint4*>(dst + int64_t{r} * p.width) =
            *reinterpret_cast<const uint4*>(at<kGated>(box, r, piece));
    }
  }

  const GemmParams& p;
  uint8_t* buffers;
  const Place place;
  const int barrier;
  uint32_t count = 0;
};

template <int kSums>
__device__ void write_tile(float (&acc)[kSums], const GemmParams& p, const GroupTile& t,
                           const Place& at, RowWriter& writer) {
  if (p.row_weights) scale_rows(acc, p, t, at);
  if (p.bias) add_bias(acc, p, t, at);
  if (p.activation >= 0) activate_tile(acc, p, t);
  if (p.dst_is_f32)
    store_f32(acc, p, t, at);
  else
    p.gated ? writer.store<true>(acc, t) : writer.store<false>(acc, t);
}

// The products of one warpgroup.
template <GemmConfig kConfig>
class Multiplier {
 public:
  __device__ Multiplier(SharedStorage<kConfig>& shared_memory, int inner)
      : shared(shared_memory), num_k((inner + kConfig.inner() - 1) / kConfig.inner()) {}

  // The step that comes next: its first stage has arrived then. Without rows: there is none.
  __device__ GemmStep next() {
    ptx::mbarrier_wait_parity(&shared.full[at.stage], at.parity);
    const GemmStep block = shared.steps[slot.stage];
    slot.advance();
    return block;
  }

  // acc = 64 weight rows x `rows` over the whole inner dimension, in products of 16 i columns with
  // the least i of kFrom to kTo that will do: by halves, as each has its own code.
  template <int kFrom = 1, int kTo = kConfig.rows / 16, int kSums>
  __device__ void multiply(float (&acc)[kSums], int rows) {
    if constexpr (kFrom == kTo) {
      multiply_columns<kTo * 16>(acc);
    } else {
      constexpr int kMiddle = (kFrom + kTo) / 2;
      rows > kMiddle * 16 ? multiply<kMiddle + 1, kTo>(acc, rows)
                          : multiply<kFrom, kMiddle>(acc, rows);
    }
  }

 private:
  // One product stays in flight while the next stage is waited for.
  template <int kN, int kSums>
  __device__ __forceinline__ void multiply_columns(float (&acc)[kSums]) {
    int previous = -1;
    for (int kb = 0; kb < num_k; ++kb, at.advance()) {
      ptx::mbarrier_wait_parity(&shared.full[at.stage], at.parity);
      const uint64_t a = ptx::matrix_descriptor(
          ptx::shared_address(shared.weights(at.stage) + threadIdx.x / 128 * 64 * kStageRowBytes));
      const uint64_t b = ptx::matrix_descriptor(ptx::shared_address(shared.rows(at.stage)));
      ptx::wgmma_fence();
#pragma unroll
      for (int i = 0; i < kConfig.inner() / 16; ++i)  // 16 elements are 32 bytes: 2 in a descriptor
        ptx::wgmma_mma_async_k16<kN>(acc, a + 2 * i, b + 2 * i, kb > 0 || i > 0);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<1>();
      release(previous);
      previous = at.stage;
    }
    ptx::wgmma_wait_group<0>();
    release(previous);
  }

  // A stage is free once every block that loads into it knows: lane i of a warp tells block i.
  __device__ void release(int stage) const {
    const int lane = threadIdx.x % 32;
    if (stage < 0 || lane >= kConfig.cluster()) return;
    if constexpr (kConfig.cluster() == 1)
      ptx::mbarrier_arrive(&shared.empty[stage]);
    else
      ptx::mbarrier_arrive_mapa(&shared.empty[stage], lane);
  }

  SharedStorage<kConfig>& shared;
  const int num_k;
  PipelinePosition<kConfig.stages> at;
  PipelinePosition<SharedStorage<kConfig>::kStepSlots> slot;
};

template <GemmConfig kConfig>
__device__ void multiply_tiles(const GemmParams& p, SharedStorage<kConfig>& shared) {
  const int group = threadIdx.x / 128;
  const Place place{static_cast<int>(threadIdx.x % 32), static_cast<int>(threadIdx.x / 32 % 4)};
  Multiplier<kConfig> multiplier(shared, p.k);
  RowWriter writer(p, shared.staging_of(group), place, group + 1);
  for (;;) {
    // Defined anew, or the compiler defines what a narrow product leaves alone in the midst of the
    // products, and to do so serialises them (C7515).
    float acc[kConfig.rows / 2] = {};
    const GemmStep block = multiplier.next();
    if (block.num_rows == 0) break;
    const int weight_row = block.weights * kConfig.weights + group * 64;
    const GroupTile tile{block.first_row, block.num_rows, block.expert,
                         p.gated ? weight_row / 2 : weight_row};
    multiplier.multiply(acc, tile.num_rows);
    if (tile.first_col < p.width) write_tile(acc, p, tile, place, writer);
  }
  writer.finish();
}

template <int kRows, int kWeights, int kStages, int kClusterRows, int kClusterWeights,
          class Operands, class RowProducer>
__global__ __launch_bounds__(GemmConfig{kRows, kWeights}.threads(),
                             1) void grouped_gemm_kernel(const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(1024) uint8_t base[];
  constexpr GemmConfig kConfig{kRows,           kWeights,        kStages,           kClusterRows,
                               kClusterWeights, Operands::kKind, RowProducer::kKind};
  constexpr int kMathThreads = kConfig.math_threads();
  auto& shared = *reinterpret_cast<SharedStorage<kConfig>*>(base);
  const int rank = kConfig.cluster() > 1 ? static_cast<int>(ptx::get_sreg_cluster_ctarank()) : 0;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kConfig.stages; ++s) {
      ptx::mbarrier_init(&shared.full[s], 1);
      ptx::mbarrier_init(&shared.empty[s], kMathThreads / 32 * kConfig.cluster());
    }
    for (int s = 0; kConfig.cluster() > 1 && s < kToldSteps; ++s)
      ptx::mbarrier_init(&shared.told[s], 1);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
    ptx::prefetch_tensormap(&p.src);
    ptx::prefetch_tensormap(&p.weights);
  }
  wait_for_predecessor();
  allow_successor();
  const int step_cols = (p.gated ? kConfig.weights / 2 : kConfig.weights) * kConfig.cluster();
  const GemmSchedule<kConfig> schedule{shared.first_step(), p.counts, p.first_row, p.num_experts,
                                       (p.width + step_cols - 1) / step_cols};
  count_steps(schedule, shared.first_step(), shared.warp_sums);
  if constexpr (kConfig.cluster() > 1)
    ptx::barrier_cluster_sync_aligned();  // the other block's barriers are ready

  // 65,536 registers: two warpgroups that multiply need more than a third each.
  constexpr bool kMoveRegisters = kMathThreads > 128;
  if (threadIdx.x >= kMathThreads) {
    if constexpr (kMoveRegisters) ptx::setmaxnreg_dec<56>();
    if (threadIdx.x == kMathThreads) {
      Loader<kConfig>(p, shared, rank).run(schedule);
      if constexpr (kConfig.cluster() > 1) {
        ptx::barrier_cluster_arrive(ptx::sem_release);
        ptx::barrier_cluster_wait(ptx::sem_acquire);
      }
    }
  } else {
    if constexpr (kMoveRegisters) ptx::setmaxnreg_inc<224>();
    multiply_tiles(p, shared);
    // The other block may still fill this one's stages, and tell it of its own.
    if constexpr (kConfig.cluster() > 1) ptx::barrier_cluster_sync_aligned();
  }
}

}  // namespace switchyard::cuda
