// src/cuda/row_sums.cuh -- sums of rows of bf16, 8 elements a thread. Multiplication and addition
// round one after the other, as on the CPU, so that both give the same bits.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

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

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

}  // namespace switchyard::cuda
