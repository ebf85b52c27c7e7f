// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
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

// 8 elements of a row.
struct Bf16Vector {
  uint4 x;
  __device__ static Bf16Vector load(const void* rows, int64_t at) {
    return {__ldg(static_cast<const uint4*>(rows) + at)};
  }
  __device__ void add_to(float (&sums)[8], float weight) const { add_scaled(sums, weight, x); }
};
struct F32Vector {
  float4 low, high;
  __device__ static F32Vector load(const void* rows, int64_t at) {
    const auto* p = static_cast<const float4*>(rows) + 2 * at;
    return {__ldg(p), __ldg(p + 1)};
  }
  __device__ void add_to(float (&sums)[8], float weight) const {
    add_scaled(sums, weight, low, high);
  }
};

struct SlotSumsView {
  const void* rows;            // bf16 or f32 [*, H]
  const int32_t* row_of_slot;  // [R, num_terms]
  const float* weights;        // [R, num_terms] or null: 1
  int num_terms;
};

inline SlotSumsView view_of(const SlotSums& sums) {
  if (!sums.rows.present()) return {};
  return {sums.rows.data, sums.row_of_slot.as<int32_t>(),
          sums.weights.present() ? sums.weights.as<float>() : nullptr,
          static_cast<int>(sums.row_of_slot.dim(1))};
}

// sums += vector v of row r; whether that has any term. Up to kLoads loads are on their way.
template <int kLoads = kSumLoads, class Vector = Bf16Vector>
__device__ __forceinline__ bool add_row(float (&sums)[8], const SlotSumsView& s, int64_t r,
                                        int vectors_per_row, int v) {
  const int32_t* rows = s.row_of_slot + r * s.num_terms;
  const float* weights = s.weights ? s.weights + r * s.num_terms : nullptr;
  bool has_terms = false;
  for (int i = 0; i < s.num_terms; i += kLoads) {
    int32_t row[kLoads];
    float weight[kLoads];
    Vector x[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      row[j] = i + j < s.num_terms ? __ldg(rows + i + j) : kNoRow;
      weight[j] = weights && i + j < s.num_terms ? __ldg(weights + i + j) : 1.0f;
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
      if (row[j] != kNoRow) {
        x[j] = Vector::load(s.rows, int64_t{row[j]} * vectors_per_row + v);
        has_terms = true;
      }
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
      if (row[j] != kNoRow) x[j].add_to(sums, weight[j]);
  }
  return has_terms;
}

__device__ __forceinline__ uint4 rounded(const float (&sums)[8]) {
  return {two_bf16(sums[0], sums[1]), two_bf16(sums[2], sums[3]), two_bf16(sums[4], sums[5]),
          two_bf16(sums[6], sums[7])};
}

// Where sums go.
struct SumsOut {
  void* dst;             // bf16 or f32 [*, H]
  const float4* addend;  // f32 [*, H] or null
  const float* scale;    // [*] or null: 1
  bool is_f32;
};

inline SumsOut sums_out(Tensor dst, const Addend& addend) {
  return {dst.data, addend.rows.present() ? addend.rows.as<float4>() : nullptr,
          addend.scale.present() ? addend.scale.as<float>() : nullptr, dst.dtype == DType::F32};
}

// Vector `at` of dst = the sums, and the 8 elements of the addend there times the scale of their
// row, if given.
__device__ __forceinline__ void store_sums(const SumsOut& out, int64_t at, float (&sums)[8],
                                           int64_t row) {
  if (out.addend) {
    const float scale = out.scale ? out.scale[row] : 1.0f;
    add_scaled(sums, scale, out.addend[2 * at], out.addend[2 * at + 1]);
  }
  if (!out.is_f32) {
    static_cast<uint4*>(out.dst)[at] = rounded(sums);
    return;
  }
  float4* dst = static_cast<float4*>(out.dst) + 2 * at;
  dst[0] = {sums[0], sums[1], sums[2], sums[3]};
  dst[1] = {sums[4], sums[5], sums[6], sums[7]};
}

// The canonical quiet NaN of bf16; two of them are one of f32.
__device__ __forceinline__ void store_nan(const SumsOut& out, int64_t at) {
  constexpr uint4 kNan{0x7fc07fc0, 0x7fc07fc0, 0x7fc07fc0, 0x7fc07fc0};
  auto* dst = static_cast<uint4*>(out.dst);
  if (!out.is_f32) {
    dst[at] = kNan;
  } else {
    dst[2 * at] = kNan;
    dst[2 * at + 1] = kNan;
  }
}

}  // namespace switchyard::cuda
