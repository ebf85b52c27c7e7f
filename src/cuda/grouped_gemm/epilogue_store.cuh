// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/epilogue_store.cuh -- what a tile becomes in memory: rows of bf16 through the
// copy engine, or of f32 as they are.
//
// Rows of bf16 go as many at a time as one of the warpgroup's two buffers in shared memory holds:
// written there transposed, as rows of 64 columns (32 if gated), swizzled as the copy engine wants
// them (which also keeps a warp's writes on different banks), and stored by the copy engine while
// the warpgroup goes on. Each warp asks for a quarter of the rows, since a thread that asks for all
// spends 90 cycles on each box; rows that do not fill a box it stores itself.
#pragma once

#include "cuda/grouped_gemm/fragment.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cp_async_bulk.cuh"
#include "cuda/ptx/stmatrix.cuh"
#include "strategy/gemm_configs.h"

namespace switchyard::cuda {

struct StoreParams {
  CUtensorMap boxes;  // of dst where it is bf16
  void* dst;          // bf16, f32 or f8_e4m3 [C, width]
  bool is_f32;
  float* scales;  // of f8_e4m3: f32 [C, width / 128]
};

// What a warp stores at once: a quarter of its warpgroup's buffer, all columns of the warpgroup.
constexpr int store_box_cols(bool gated) {
  return gated ? 32 : 64;
}
constexpr int store_box_rows(int staging_bytes, bool gated) {
  return staging_bytes / 4 / (int{sizeof(__nv_bfloat16)} * store_box_cols(gated));
}

// Where rows come first a warp stores its own 16.
inline constexpr int kStoredRows = 16;

// Each sum by its own thread: rows of f32, and tiles of few rows.
template <class Fragment>
__device__ void store_sums(const StoreParams& p, const Fragment& f, const OutputTile& t) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (f.shape.gated && h == 1) continue;
#pragma unroll
    for (int j = 0; j < f.kBlocks; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = f.row(j, h, i), col = t.first_col + f.col(j, h, i);
        if (row >= t.num_rows || col >= f.shape.width) continue;
        const int64_t at = (t.first_row + row) * f.shape.width + col;
        if (p.is_f32)
          static_cast<float*>(p.dst)[at] = f.at(j, h, i);
        else
          static_cast<__nv_bfloat16*>(p.dst)[at] = __float2bfloat16_rn(f.at(j, h, i));
      }
  }
}

template <int kStagingBytes>
class TileStore {
 public:
  __device__ TileStore(const StoreParams& params, uint8_t* staging, Place where, int its_barrier)
      : p(params), buffers(staging), place(where), barrier(its_barrier) {}

  template <int kSums>
  __device__ void operator()(const Fragment<kSums>& f, const OutputTile& t) {
    if (p.is_f32)
      store_sums(p, f, t);
    else
      f.shape.gated ? store_bf16<true>(f, t) : store_bf16<false>(f, t);
  }

  // Each warp its own rows, 64 columns at a time, in its quarter of both buffers.
  template <int kSums>
  __device__ void operator()(const RowFragment<kSums>& f, const OutputTile& t) {
    if (p.is_f32) return store_sums(p, f, t);
    using Box = Box<false>;
    constexpr int kRows = kStoredRows;
    static_assert(kRows * Box::kRowBytes == 2 * kStagingBytes / 4);
    uint8_t* buffer = buffers + place.warp * kRows * Box::kRowBytes;
    const int rows = t.num_rows - place.warp * kRows;
    const int64_t row = t.first_row + place.warp * kRows;
#pragma unroll
    for (int first = 0; first < 8 * f.kBlocks; first += Box::kCols) {
      if (rows <= 0 || t.first_col + first >= f.shape.width) break;
      if (place.lane == 0) ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>{});
      __syncwarp();
#pragma unroll
      for (int j = 0; j < Box::kCols / 8; j += 2) {
        const int block = first / 8 + j;
        ptx::stmatrix_x4(Box::at(buffer, place.lane % 16, j + place.lane / 16), f.matrix(block, 0),
                         f.matrix(block, 1), f.matrix(block + 1, 0), f.matrix(block + 1, 1));
      }
      ptx::fence_proxy_async(ptx::space_shared);
      __syncwarp();
      if (rows < kRows) {
        store_some<false>(buffer, rows, row, t.first_col + first, f.shape);
      } else if (place.lane == 0) {
        ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &p.boxes,
                                  {t.first_col + first, static_cast<int>(row)}, buffer);
        ptx::cp_async_bulk_commit_group();
      }
      __syncwarp();
    }
  }

  // Before the block ends: its shared memory must outlive the copies, and the next kernel see them.
  __device__ void finish() const {
    ptx::cp_async_bulk_wait_group(ptx::n32_t<0>{});
  }

 private:
  // A row of a box, in pieces of 16 bytes.
  template <bool kGated>
  struct Box {
    static constexpr int kRows = store_box_rows(kStagingBytes, kGated),
                         kCols = store_box_cols(kGated);
    static constexpr int kRowBytes = int{sizeof(__nv_bfloat16)} * kCols, kPieces = kRowBytes / 16;
    // Where the copy engine looks for piece `j` of a row.
    static __device__ uint8_t* at(uint8_t* buffer, int row, int j) {
      return buffer + row * kRowBytes + ((j ^ (row / (8 / kPieces) % kPieces)) * 16);
    }
  };

  template <bool kGated, int kSums>
  __device__ void store_bf16(const Fragment<kSums>& f, const OutputTile& t) {
    using Box = Box<kGated>;
    constexpr int kRows = 4 * Box::kRows;
#pragma unroll
    for (int first = 0; first < f.kRows; first += kRows) {
      if (first >= t.num_rows) break;
      uint8_t* buffer = buffers + (count++ % 2) * kStagingBytes;
      if (place.lane == 0) ptx::cp_async_bulk_wait_group_read(ptx::n32_t<1>{});
      ptx::bar_sync<128>(barrier);
      kGated ? put_gated<kRows>(f, first, t.num_rows - first, buffer)
             : put<kRows>(f, first, buffer);
      ptx::fence_proxy_async(ptx::space_shared);
      ptx::bar_sync<128>(barrier);
      const int box = place.warp * Box::kRows, rows = t.num_rows - first - box;
      const int64_t row = t.first_row + first + box;
      if (rows >= Box::kRows) {
        if (place.lane == 0)
          ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &p.boxes,
                                    {t.first_col, static_cast<int>(row)},
                                    buffer + box * Box::kRowBytes);
      } else {
        store_some<kGated>(buffer + box * Box::kRowBytes, rows, row, t.first_col, f.shape);
      }
      // Also of none, so that groups count buffers.
      if (place.lane == 0) ptx::cp_async_bulk_commit_group();
    }
  }

  // A small tile has fewer matrices than go at a time: what stands for the others is stored nowhere.
  //
  // Four matrices of 8 rows x 8 columns at a time: two neighbours along the columns, two along the
  // rows.
  template <int kRows, int kSums>
  __device__ void put(const Fragment<kSums>& f, int first, uint8_t* buffer) const {
    const int row = place.lane / 16 * 8 + place.lane % 8;
    const int piece = place.warp * 2 + place.lane / 8 % 2;
#pragma unroll
    for (int r = 0; r < kRows && first + r < f.kRows; r += 16) {
      const int j = (first + r) / 8, next = min(j + 1, f.kBlocks - 1);
      ptx::stmatrix_x4_trans(Box<false>::at(buffer, r + row, piece), f.matrix(j, 0), f.matrix(j, 1),
                             f.matrix(next, 0), f.matrix(next, 1));
    }
  }
  // The same, four along the rows.
  template <int kRows, int kSums>
  __device__ void put_gated(const Fragment<kSums>& f, int first, int rows, uint8_t* buffer) const {
#pragma unroll
    for (int r = 0; r < kRows && first + r < f.kRows; r += 32) {
      if (r % 64 == 0 && r >= rows) break;
      const auto matrix = [&](int i) {
        return f.matrix(min((first + r) / 8 + i, f.kBlocks - 1), 0);
      };
      ptx::stmatrix_x4_trans(Box<true>::at(buffer, r + place.lane, place.warp), matrix(0),
                             matrix(1), matrix(2), matrix(3));
    }
  }

  // Fewer than a box, or none.
  template <bool kGated>
  __device__ void store_some(uint8_t* box, int rows, int64_t row, int first_col,
                             const OutputShape& shape) const {
    constexpr int kPieces = Box<kGated>::kPieces;
    const int piece = place.lane % kPieces, col = first_col + piece * 8;
    if (col >= shape.width) return;
    auto* dst = static_cast<__nv_bfloat16*>(p.dst) + row * shape.width + col;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = place.lane / kPieces + i * (32 / kPieces);
      if (r < rows)
        *reinterpret_cast<uint4*>(dst + int64_t{r} * shape.width) =
            *reinterpret_cast<const uint4*>(Box<kGated>::at(box, r, piece));
    }
  }

  const StoreParams& p;
  uint8_t* buffers;
  const Place place;
  const int barrier;
  uint32_t count = 0;
};

}  // namespace switchyard::cuda
