// src/cuda/row_sums.cuh -- sums of rows of bf16, 8 elements a thread. Multiplication and addition
// round one after the other, as on the CPU, so that both give the same bits.
#pragma once

#include "cuda/numbers.cuh"
#include "ops/ops.h"

namespace switchyard::cuda {

inline constexpr int kSumThreads = 128;
inline constexpr int kSumLoads = 8;

// sums += weight * the 8 elements of x
__device__ __forceinline__ void add_scaled(float (&sums)[8], float weight, const uint4& x) {
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sums[2 * i] = __fadd_rn(sums[2 * i], __fmul_rn(weight, __uint_as_float(words[i] << 16)));
    sums[2 * i + 1] =
        __fadd_rn(sums[2 * i + 1], __fmul_rn(weight, __uint_as_float(words[i] & 0xffff0000u)));
  }
}

__device__ __forceinline__ void add_scaled(float (&sums)[8], float weight, const float4& low,
                                           const float4& high) {
  const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) sums[i] = __fadd_rn(sums[i], __fmul_rn(weight, x[i]));
}

struct SlotSumsView {
  const uint4* rows;           // bf16 [*, H]
  const int32_t* row_of_slot;  // [R, num_terms]
  const float* weights;        // [R, num_terms] or null: 1
  int num_terms;
};

inline SlotSumsView view_of(const SlotSums& sums) {
  if (!sums.rows.present()) return {};
  return {sums.rows.as<uint4>(), sums.row_of_slot.as<int32_t>(),
          sums.weights.present() ? sums.weights.as<float>() : nullptr,
          static_cast<int>(sums.row_of_slot.dim(1))};
}

// sums += vector v of row r; whether that has any term. Up to kLoads loads are on their way.
template <int kLoads = kSumLoads>
__device__ __forceinline__ bool add_row(float (&sums)[8], const SlotSumsView& s, int64_t r,
                                        int vectors_per_row, int v) {
  const int32_t* rows = s.row_of_slot + r * s.num_terms;
  const float* weights = s.weights ? s.weights + r * s.num_terms : nullptr;
  bool has_terms = false;
  for (int i = 0; i < s.num_terms; i += kLoads) {
    int32_t row[kLoads];
    float weight[kLoads];
    uint4 x[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      row[j] = i + j < s.num_terms ? __ldg(rows + i + j) : kNoRow;
      weight[j] = weights && i + j < s.num_terms ? __ldg(weights + i + j) : 1.0f;
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
      if (row[j] != kNoRow) {
        x[j] = __ldg(s.rows + int64_t{row[j]} * vectors_per_row + v);
        has_terms = true;
      }
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
      if (row[j] != kNoRow) add_scaled(sums, weight[j], x[j]);
  }
  return has_terms;
}

__device__ __forceinline__ uint4 rounded(const float (&sums)[8]) {
  return {two_bf16(sums[0], sums[1]), two_bf16(sums[2], sums[3]), two_bf16(sums[4], sums[5]),
          two_bf16(sums[6], sums[7])};
}

// dst[at] = the sums, and the 8 elements of the addend there times the scale of their row, if
// given.
__device__ __forceinline__ void store_sums(uint4* dst, int64_t at, float (&sums)[8],
                                           const float4* addend, const float* scales, int64_t row) {
  if (addend) {
    const float scale = scales ? scales[row] : 1.0f;
    add_scaled(sums, scale, addend[2 * at], addend[2 * at + 1]);
  }
  dst[at] = rounded(sums);
}

}  // namespace switchyard::cuda
