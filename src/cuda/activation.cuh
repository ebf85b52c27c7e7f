// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/activation.cuh -- the arithmetic of activation.h on devices.
#pragma once

#include "switchyard/config.h"

namespace switchyard::cuda {

// 1 / (1 + exp(-x)): 0 and 1 far out, where the power overflows to infinity or vanishes. These two
// instructions (2 ulp and 1) flush denormal numbers; the library's forms scale them first, for more
// instructions than all the rest. One reciprocal for two outputs would be cheaper still, but the
// two that a thread has are of different rows, and the bits of a row must not depend on its
// neighbour.
__device__ __forceinline__ float sigmoid(float x) {
  float power, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));  // 1 / ln 2
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
  return inverse;
}

// With the fewest instructions, beside products.
struct FastMath {
  static __device__ __forceinline__ float times_sigmoid(float x, float y) { return x * sigmoid(y); }
  // (1 + tanh y) / 2 = sigmoid(2 y)
  static __device__ __forceinline__ float times_gelu(float x, float y) {
    return x * sigmoid(2.0f * y);
  }
  static __device__ __forceinline__ float erf(float x) { return erff(x); }
  static __device__ __forceinline__ float tanh(float x) { return tanhf(x); }
};

// The CPU's.
struct ExactMath {
  static __device__ __forceinline__ float times_sigmoid(float x, float y) {
    return x / (1.0f + expf(-y));
  }
  static __device__ __forceinline__ float times_gelu(float x, float y) {
    return x * 0.5f * (1.0f + tanhf(y));
  }
  static __device__ __forceinline__ float erf(float x) { return erff(x); }
  static __device__ __forceinline__ float tanh(float x) { return tanhf(x); }
};

}  // namespace switchyard::cuda
