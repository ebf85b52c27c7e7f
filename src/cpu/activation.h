// src/cpu/activation.h -- what each activation means, on one unrounded fp32 pair.
#pragma once

#include <algorithm>
#include <cmath>

#include "switchyard/config.h"

namespace switchyard::cpu {

// y from a gate value and its up value; without a gate, `gate` is the only operand.
inline float activate(const Activation& a, float gate, float up) {
  switch (a.kind) {
    case ActivationKind::SiluGated: return up * gate / (1.0f + std::exp(-gate));
    case ActivationKind::GeluGated:
      return up * 0.5f * gate * (1.0f + std::erf(gate * 0.70710678f));  // 1/sqrt 2
    case ActivationKind::GeluTanhGated: {
      constexpr float kSqrt2OverPi = 0.79788456f;
      return up * 0.5f * gate *
             (1.0f + std::tanh(kSqrt2OverPi * (gate + 0.044715f * gate * gate * gate)));
    }
    case ActivationKind::ClampedSwiglu: {
      const float g = std::min(gate, a.limit), u = std::clamp(up, -a.limit, a.limit);
      return (u + 1.0f) * g / (1.0f + std::exp(-a.alpha * g));
    }
    case ActivationKind::Relu2: {
      const float x = std::max(gate, 0.0f);
      return x * x;
    }
    case ActivationKind::SiluOfClamped: {
      const float g = std::min(gate, a.limit), u = std::clamp(up, -a.limit, a.limit);
      return u * g / (1.0f + std::exp(-g));
    }
    case ActivationKind::ClampedSilu: {
      const float silu = gate / (1.0f + std::exp(-gate));
      return std::clamp(up, -a.limit, a.limit) * std::min(silu, a.limit);
    }
    case ActivationKind::Situ: {
      const float g = a.alpha * std::tanh(gate / a.alpha) / (1.0f + std::exp(-gate));
      return g * a.limit * std::tanh(up / a.limit);
    }
  }
  return 0;
}

}  // namespace switchyard::cpu
