// src/cuda/peer_rows.cuh -- push_rows, pull_sums and pull_slices: rows between windows.
//
// Rows move as vectors of 16 bytes. A warp takes pieces of 256 vectors of a row: 8 loads on their
// way per lane, then a store to each rank that gets the token. None of these kernels waits.
// Bound by the link: T * (ranks that get a token, own excluded) * H * 2 bytes each way.
#pragma once

#include "cuda/peer_window.cuh"
#include "cuda/row_sums.cuh"

namespace switchyard::cuda {

inline constexpr int kPushThreads = 256;
inline constexpr int kPushLoads = 8;
inline constexpr int kPieceVectors = 32 * kPushLoads;

struct PushRowsParams {
  WindowView window;
  uint4* dst_rows;            // bf16 [R, H] here; a peer's stand at the same offset
  int32_t* dst_ids;           // [R, K]
  float* dst_weights;         // [R, K]
  const uint4* rows;          // bf16 [T, H]
  const int32_t* ids;         // [T, K]
  const float* weights;       // [T, K]
  const int32_t* return_row;  // [T, P]
  const int32_t* shift;       // [P]
  const int32_t* status;
  int64_t experts_per_rank;
  int num_tokens, top_k, vectors_per_row, pieces_per_row;
};

// The ids and weights of token t, which a rank gets as its row `row`.
__device__ __forceinline__ void push_slots(const PushRowsParams& p, int64_t t, int rank,
                                           int64_t row) {
  int32_t* dst_ids = p.window.at_peer(rank, p.dst_ids) + row * p.top_k;
  float* dst_weights = p.window.at_peer(rank, p.dst_weights) + row * p.top_k;
  for (int k = threadIdx.x % 32; k < p.top_k; k += 32) {
    const int64_t id = p.ids[t * p.top_k + k] - rank * p.experts_per_rank;
    dst_ids[k] = is_expert(id, p.experts_per_rank) ? static_cast<int32_t>(id) : kNoExpert;
    dst_weights[k] = p.weights[t * p.top_k + k];
  }
}

__global__ __launch_bounds__(kPushThreads) void push_rows_kernel(
    const __grid_constant__ PushRowsParams p) {
  wait_for_predecessor();
  allow_successor();
  if (!is_good(p.status)) return;
  const WindowView& w = p.window;
  const int lane = threadIdx.x % 32;
  const int64_t num_pieces = int64_t{p.num_tokens} * p.pieces_per_row;
  const int64_t stride = int64_t{gridDim.x} * (kPushThreads / 32);
  for (int64_t i = int64_t{blockIdx.x} * (kPushThreads / 32) + threadIdx.x / 32; i < num_pieces;
       i += stride) {
    const int64_t t = i / p.pieces_per_row;
    const int piece = static_cast<int>(i - t * p.pieces_per_row), begin = piece * kPieceVectors;
    const uint4* src = p.rows + t * p.vectors_per_row;
    uint4 x[kPushLoads];
#pragma unroll
    for (int j = 0; j < kPushLoads; ++j)
      if (const int v = begin + j * 32 + lane; v < p.vectors_per_row) x[j] = __ldg(src + v);
    // Other ranks first, each rank beginning with the next one, so that links share the load.
    for (int q = 1; q <= w.num_ranks; ++q) {
      const int rank = (w.rank + q) % w.num_ranks;
      const int32_t place = __ldg(p.return_row + t * w.num_ranks + rank);
      if (place == kNoRow) continue;
      const int64_t row = place + __ldg(p.shift + rank);
      uint4* dst = w.at_peer(rank, p.dst_rows) + row * p.vectors_per_row;
#pragma unroll
      for (int j = 0; j < kPushLoads; ++j)
        if (const int v = begin + j * 32 + lane; v < p.vectors_per_row) dst[v] = x[j];
      if (piece == 0) push_slots(p, t, rank, row);
    }
  }
  // A peer that is told of these rows sees them.
  __threadfence_system();
}

struct PullSumsParams {
  WindowView window;
  uint4* dst;                 // bf16 [T, H]
  const uint4* partial;       // bf16 [R, H] here; a peer's stand at the same offset
  const int32_t* return_row;  // [T, P]
  const int32_t* shift;       // [P]
  const float4* addend;       // f32 [T, H] or null
  const float* scale;         // [T] or null: 1
  const int32_t* status;
  int num_tokens, vectors_per_row;
};

// As sum_rows_kernel, with a base per term. Peers wrote while earlier kernels ran: no load goes
// through a cache that may not have seen it.
__global__ __launch_bounds__(kSumThreads) void pull_sums_kernel(
    const __grid_constant__ PullSumsParams p) {
  wait_for_predecessor();
  allow_successor();
  const int v = static_cast<int>(blockIdx.y) * kSumThreads + static_cast<int>(threadIdx.x);
  if (v >= p.vectors_per_row || !is_good(p.status)) return;
  const WindowView& w = p.window;
  for (int64_t t = blockIdx.x; t < p.num_tokens; t += gridDim.x) {
    const int32_t* places = p.return_row + t * w.num_ranks;
    float sums[8] = {};
    for (int r = 0; r < w.num_ranks; r += kSumLoads) {
      int32_t place[kSumLoads];
      uint4 x[kSumLoads];
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        place[j] = r + j < w.num_ranks ? __ldg(places + r + j) : kNoRow;
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        if (place[j] != kNoRow) {
          const int64_t row = place[j] + __ldg(p.shift + r + j);
          x[j] = __ldcg(w.at_peer(r + j, p.partial) + row * p.vectors_per_row + v);
        }
#pragma unroll
      for (int j = 0; j < kSumLoads; ++j)
        if (place[j] != kNoRow) add_scaled(sums, 1.0f, x[j]);
    }
    const int64_t at = t * p.vectors_per_row + v;
    store_sums(p.dst, at, sums, p.addend, p.scale, t);
  }
}

struct PullSlicesParams {
  WindowView window;
  uint4* dst;          // bf16 [T, H]
  const uint4* slice;  // bf16 [C, H] here; a peer's stand at the same offset
  const int32_t* status;
  int first, num_tokens, chunk, vectors_per_row;
};

__global__ __launch_bounds__(kSumThreads) void pull_slices_kernel(
    const __grid_constant__ PullSlicesParams p) {
  wait_for_predecessor();
  allow_successor();
  const int v = static_cast<int>(blockIdx.y) * kSumThreads + static_cast<int>(threadIdx.x);
  if (v >= p.vectors_per_row || !is_good(p.status)) return;
  for (int t = blockIdx.x; t < p.num_tokens; t += gridDim.x) {
    const uint4* slice = p.window.at_peer(p.first + t / p.chunk, p.slice);
    p.dst[int64_t{t} * p.vectors_per_row + v] =
        __ldcg(slice + int64_t{t % p.chunk} * p.vectors_per_row + v);
  }
}

}  // namespace switchyard::cuda
