// src/cuda/activation.cuh -- what each activation means, on one unrounded fp32 pair; the same
// functions as cpu/activation.h, with the fast exponential (2 ulp, far below the rounding to bf16).
#pragma once

#include "switchyard/config.h"

namespace switchyard::cuda {

// 1 / (1 + exp(-x)): 0 and 1 far out, where exp overflows to infinity or vanishes.
__device__ __forceinline__ float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + __expf(-x));
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
    const float g = fminf(gate, limit), u = fminf(fmaxf(up, -limit), limit);
    return (u + 1.0f) * g * sigmoid(alpha * g);
  } else {
    const float x = fmaxf(gate, 0.0f);
    return x * x;
  }
}

}  // namespace switchyard::cuda
