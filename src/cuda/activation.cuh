// src/cuda/activation.cuh -- what each activation means, on unrounded fp32; the same functions as
// cpu/activation.h. Gated ones take two outputs at a time, for one reciprocal: a tile's activation
// is bound by the special function unit.
#pragma once

#include "switchyard/config.h"

namespace switchyard::cuda {

// 1 + exp(-x), at most 2^60: two of them have a finite product. The instruction flushes denormal
// numbers, which are nothing beside 1.
__device__ __forceinline__ float one_plus_exp(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;"
      : "=f"(power)
      : "f"(fminf(x * -1.44269504f, 60.0f)));  // 1 / ln 2
  return 1.0f + power;
}

// 1 / (1 + exp(-x)), to 4 ulp; 2^-60 where it is less.
__device__ __forceinline__ float2 sigmoid(float2 x) {
  const float a = one_plus_exp(x.x), b = one_plus_exp(x.y);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(a * b));
  return {inverse * b, inverse * a};
}

// Comparisons keep a NaN where fminf and fmaxf would drop it.
__device__ __forceinline__ float relu2(float x) {
  const float positive = x < 0.0f ? 0.0f : x;
  return positive * positive;
}

// up * gate * sigmoid(argument)
__device__ __forceinline__ float2 gated(float2 gate, float2 up, float2 argument) {
  const float2 s = sigmoid(argument);
  return {up.x * gate.x * s.x, up.y * gate.y * s.y};
}

template <ActivationKind kKind>
__device__ __forceinline__ float2 activate(float2 gate, float2 up, float alpha, float limit) {
  if constexpr (kKind == ActivationKind::SiluGated) {
    return gated(gate, up, gate);
  } else if constexpr (kKind == ActivationKind::GeluGated) {
    const auto gelu = [](float x, float u) {
      return u * 0.5f * x * (1.0f + erff(x * 0.70710678f));  // 1 / sqrt 2
    };
    return {gelu(gate.x, up.x), gelu(gate.y, up.y)};
  } else if constexpr (kKind == ActivationKind::GeluTanhGated) {
    // (1 + tanh y) / 2 = sigmoid(2 y)
    constexpr float kTwiceSqrt2OverPi = 2.0f * 0.79788456f;
    const auto inner = [](float x) { return kTwiceSqrt2OverPi * (x + 0.044715f * x * x * x); };
    return gated(gate, up, {inner(gate.x), inner(gate.y)});
  } else {
    static_assert(kKind == ActivationKind::ClampedSwiglu);
    const auto below = [&](float x) { return x > limit ? limit : x; };
    const auto shifted = [&](float u) { return (u < -limit ? -limit : below(u)) + 1.0f; };
    const float2 g{below(gate.x), below(gate.y)};
    return gated(g, {shifted(up.x), shifted(up.y)}, {alpha * g.x, alpha * g.y});
  }
}

}  // namespace switchyard::cuda
