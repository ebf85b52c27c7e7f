// src/cuda/activation.cuh -- what each activation means, on one unrounded fp32 pair; the same
// functions as cpu/activation.h. Comparisons keep a NaN where fminf and fmaxf would drop it.
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

__device__ __forceinline__ float at_most(float x, float limit) {
  return x > limit ? limit : x;
}

__device__ __forceinline__ float within(float x, float limit) {
  return x < -limit ? -limit : at_most(x, limit);
}

template <ActivationKind kKind>
__device__ __forceinline__ float activate(float gate, float up, float alpha, float limit) {
  if constexpr (kKind == ActivationKind::SiluGated) {
    return up * gate * sigmoid(gate);
  } else if constexpr (kKind == ActivationKind::GeluGated) {
    return up * 0.5f * gate * (1.0f + erff(gate * 0.70710678f));  // 1 / sqrt 2
  } else if constexpr (kKind == ActivationKind::GeluTanhGated) {
    constexpr float kSqrt2OverPi = 0.79788456f;
    // (1 + tanh y) / 2 = sigmoid(2 y)
    return up * gate * sigmoid(2.0f * kSqrt2OverPi * (gate + 0.044715f * gate * gate * gate));
  } else if constexpr (kKind == ActivationKind::ClampedSwiglu) {
    const float g = at_most(gate, limit);
    return (within(up, limit) + 1.0f) * g * sigmoid(alpha * g);
  } else if constexpr (kKind == ActivationKind::SiluOfClamped) {
    const float g = at_most(gate, limit);
    return within(up, limit) * g * sigmoid(g);
  } else if constexpr (kKind == ActivationKind::ClampedSilu) {
    return within(up, limit) * at_most(gate * sigmoid(gate), limit);
  } else if constexpr (kKind == ActivationKind::Situ) {
    return alpha * tanhf(gate / alpha) * sigmoid(gate) * limit * tanhf(up / limit);
  } else {
    const float x = gate < 0.0f ? 0.0f : gate;
    return x * x;
  }
}

}  // namespace switchyard::cuda
