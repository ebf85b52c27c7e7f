// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/quantize.cuh -- Q128 (ops/fp8_ops.h) of a group's numbers: a maximum of integers, where a NaN
// is above infinity, and a rounded quotient an element.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "ops/fp8_ops.h"

namespace switchyard::cuda {

__device__ __forceinline__ uint32_t magnitude(float x) {
  return __float_as_uint(x) & 0x7fffffffu;
}

// Of the group's largest magnitude.
__device__ __forceinline__ float scale_of(uint32_t most) {
  if (most > 0x7f800000u) return __uint_as_float(0x7fc00000u);
  return __fdiv_rn(fmaxf(__uint_as_float(most), kLeastAmax), F8E4m3::kMax);
}

// x / scale as IEEE rounds it, but where it is so small that its code is a zero; without the branch and
// the calls of a division. With the rounded reciprocal, the first correction by a remainder leaves a
// neighbour of the quotient, the second, whose remainder is exact, the rounded quotient (Markstein).
// |x| is at most 448 scale, a scale at least 2^-43: remainders of quotients above 2^-12 are normal
// numbers. An infinite scale has a reciprocal of 0: zeros, and NaN of infinities.
class Quotient {
 public:
  __device__ explicit Quotient(float scale) {
    divisor = isinf(scale) ? 0.0f : scale;
    reciprocal = isinf(scale) ? 0.0f : __fdiv_rn(1.0f, scale);
  }

  __device__ float operator()(float x) const {
    const float near = corrected(x, x * reciprocal);
    return copysignf(corrected(x, near), x);  // a sum of two zeros loses the sign
  }

 private:
  __device__ float corrected(float x, float quotient) const {
    return fmaf(fmaf(-quotient, divisor, x), reciprocal, quotient);
  }

  float divisor, reciprocal;
};

// The first in the lower byte. A NaN becomes 0x7f.
__device__ __forceinline__ uint16_t two_codes(float first, float second) {
  return __nv_cvt_float2_to_fp8x2({first, second}, __NV_SATFINITE, __NV_E4M3);
}

}  // namespace switchyard::cuda
