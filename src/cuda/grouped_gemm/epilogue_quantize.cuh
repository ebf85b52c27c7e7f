// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/epilogue_quantize.cuh -- what GEMM1 leaves for GEMM2 where both are of fp8: Q128
// (ops/fp8_ops.h) of activated rows, which never are in memory as fp32.
#pragma once

#include "cuda/grouped_gemm/epilogue_store.cuh"
#include "cuda/quantize.cuh"

namespace switchyard::cuda {

// Of 64 rows, a group of 128 columns each: sums[h] has 64 columns, in the even blocks of a gated
// RowFragment. Four neighbouring lanes have a row. Each warp stores its own rows through its quarter
// of `buffer`, where pieces of 16 bytes are swizzled: what a warp writes at once is on different banks.
class CodeStore {
 public:
  __device__ CodeStore(const StoreParams& params, const OutputShape& output, uint8_t* buffer,
                       Place where)
      : p(params), shape(output), place(where), codes(buffer + where.warp * kStoredRows * kBytes) {}

  template <int kParts, int kSums>
  __device__ void operator()(const float (&sums)[kParts][kSums], const OutputTile& t) const {
    static_assert(kParts * kSums == kBytes,
                  "four lanes have the gate and the up values of a group");
    if (t.first_col >= shape.width) return;
    const int rows = t.num_rows - place.warp * kStoredRows;
    const int64_t first_row = t.first_row + place.warp * kStoredRows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // rows 0 to 7, and 8 to 15
      const int row = 8 * half + place.lane / 4;
      const float scale = scale_of(largest(sums, half));
      const Quotient quotient(scale);
      if (place.lane % 4 == 0 && row < rows)
        p.scales[(first_row + row) * (shape.width / kBytes) + t.first_col / kBytes] = scale;
#pragma unroll
      for (int h = 0; h < kParts; ++h)
#pragma unroll
        for (int at = 2 * half; at < kSums; at += 8) {
          const int col = 64 * h + at + 2 * (place.lane % 4 - half);
          *reinterpret_cast<uint16_t*>(piece_of(row, col / 16) + col % 16) =
              two_codes(quotient(sums[h][at]), quotient(sums[h][at + 1]));
        }
    }
    __syncwarp();
    auto* dst = static_cast<uint8_t*>(p.dst) + first_row * shape.width + t.first_col;
#pragma unroll
    for (int i = 0; i < kStoredRows * kPieces / 32; ++i) {
      const int row = i * (32 / kPieces) + place.lane / kPieces, piece = place.lane % kPieces;
      if (row < rows)
        *reinterpret_cast<uint4*>(dst + int64_t{row} * shape.width + piece * 16) =
            *reinterpret_cast<const uint4*>(piece_of(row, piece));
    }
    __syncwarp();  // before the next rows take their place
  }

 private:
  static constexpr int kBytes = kQuantGroup, kPieces = kBytes / 16;  // of a row

  // Of a row's group.
  template <int kParts, int kSums>
  static __device__ uint32_t largest(const float (&sums)[kParts][kSums], int half) {
    uint32_t most = 0;
#pragma unroll
    for (int h = 0; h < kParts; ++h)
#pragma unroll
      for (int at = 2 * half; at < kSums; at += 8)
        most = max(most, max(magnitude(sums[h][at]), magnitude(sums[h][at + 1])));
    most = max(most, __shfl_xor_sync(~0u, most, 1));
    return max(most, __shfl_xor_sync(~0u, most, 2));
  }
  __device__ uint8_t* piece_of(int row, int piece) const {
    return codes + row * kBytes + (piece ^ row % kPieces) * 16;
  }

  const StoreParams& p;
  const OutputShape& shape;
  const Place place;
  uint8_t* const codes;
};

}  // namespace switchyard::cuda
