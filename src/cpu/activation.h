// src/cpu/activation.h -- activation.h of one unrounded fp32 pair.
#pragma once

#include <cmath>

#include "switchyard/config.h"

namespace switchyard::cpu {

struct Math {
  static float times_sigmoid(float x, float y) { return x / (1.0f + std::exp(-y)); }
  static float times_gelu(float x, float y) { return x * 0.5f * (1.0f + std::tanh(y)); }
  static float erf(float x) { return std::erf(x); }
  static float tanh(float x) { return std::tanh(x); }
};

inline float activate(const Activation& a, float gate, float up) {
  float y = 0;
  Activations::visit(a.kind, [&]<ActivationKind k>() {
    y = ActivationRule<k>::of(Math(), gate, up, a.alpha, a.limit);
  });
  return y;
}

}  // namespace switchyard::cpu
