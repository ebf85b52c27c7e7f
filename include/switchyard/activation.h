// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/activation.h -- public: the functions between the two GEMMs of an expert, each
// with its names and its formula. Every backend and the oracle take them from here.
#pragma once

#include <array>
#include <string_view>

#if defined(__CUDACC__)
#define SWITCHYARD_HOST_DEVICE __host__ __device__
#else
#define SWITCHYARD_HOST_DEVICE
#endif

namespace [[gnu::visibility("default")]] switchyard {

/// All of it in fp32 on unrounded sums.
enum class ActivationKind {
  SiluGated,      // up * gate / (1 + exp(-gate)); also named silu, SiGLU, swiglu
  GeluGated,      // up * gate * Phi(gate), Phi by erf; named gelu
  GeluTanhGated,  // up * gelu(gate) by its tanh form; named gelu_tanh, gelu_pytorch_tanh
  ClampedSwiglu,  // gpt-oss: (clamp(up, -limit, limit) + 1) * g / (1 + exp(-alpha g)), g =
                  // min(gate, limit)
  Relu2,          // max(x, 0)^2, without a gate: W1 has I rows instead of 2I
  SiluOfClamped,  // DeepSeek-V4: clamp(up, -limit, limit) * silu(min(gate, limit))
  ClampedSilu,    // Step-3.5: clamp(up, -limit, limit) * min(silu(gate), limit)
  Situ,           // Kimi-K3: alpha tanh(gate / alpha) sigmoid(gate) * limit tanh(up / limit)
  Relu2Gated,     // up * max(gate, 0)^2; named relu2_gated, sqrelu_gated
};

/// What an activation says of itself unless it says otherwise. Its formula takes a gate value and an
/// up value (without a gate, `gate` is the only operand), and `m`, a backend's arithmetic:
///
///     m.times_sigmoid(x, y)   x / (1 + exp(-y))
///     m.times_gelu(x, y)      x (1 + tanh y) / 2
///     m.erf, m.tanh
template <ActivationKind>
struct ActivationRule;
struct ActivationDefaults {
  static constexpr bool kGated = true, kHasAlpha = false, kHasLimit = false;

  // Comparisons keep a NaN.
  template <class T>
  SWITCHYARD_HOST_DEVICE static T at_most(T x, T limit) {
    return x > limit ? limit : x;
  }
  template <class T>
  SWITCHYARD_HOST_DEVICE static T within(T x, T limit) {
    return x < -limit ? -limit : at_most(x, limit);
  }
};

template <>
struct ActivationRule<ActivationKind::SiluGated> : ActivationDefaults {
  static constexpr std::array kNames{"silu", "SiGLU", "swiglu"};
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M m, T gate, T up, T, T) {
    return m.times_sigmoid(up * gate, gate);
  }
};

template <>
struct ActivationRule<ActivationKind::GeluGated> : ActivationDefaults {
  static constexpr std::array kNames{"gelu"};
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M m, T gate, T up, T, T) {
    return up * T(0.5) * gate * (T(1) + m.erf(gate * T(0.70710678118654752)));  // 1 / sqrt 2
  }
};

template <>
struct ActivationRule<ActivationKind::GeluTanhGated> : ActivationDefaults {
  static constexpr std::array kNames{"gelu_tanh", "gelu_pytorch_tanh"};
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M m, T gate, T up, T, T) {
    return m.times_gelu(up * gate, T(0.79788456080286536) *  // sqrt(2 / pi)
                                       (gate + T(0.044715) * gate * gate * gate));
  }
};

template <>
struct ActivationRule<ActivationKind::ClampedSwiglu> : ActivationDefaults {
  static constexpr std::array kNames{"clamped_swiglu", "swigluoai"};
  static constexpr bool kHasAlpha = true, kHasLimit = true;
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M m, T gate, T up, T alpha, T limit) {
    const T g = at_most(gate, limit);
    return m.times_sigmoid((within(up, limit) + T(1)) * g, alpha * g);
  }
};

template <>
struct ActivationRule<ActivationKind::Relu2> : ActivationDefaults {
  static constexpr std::array kNames{"relu2"};
  static constexpr bool kGated = false;
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M, T gate, T, T, T) {
    const T x = gate < T(0) ? T(0) : gate;
    return x * x;
  }
};

template <>
struct ActivationRule<ActivationKind::SiluOfClamped> : ActivationDefaults {
  static constexpr std::array kNames{"silu_of_clamped"};
  static constexpr bool kHasLimit = true;
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M m, T gate, T up, T, T limit) {
    const T g = at_most(gate, limit);
    return m.times_sigmoid(within(up, limit) * g, g);
  }
};

template <>
struct ActivationRule<ActivationKind::ClampedSilu> : ActivationDefaults {
  static constexpr std::array kNames{"clamped_silu"};
  static constexpr bool kHasLimit = true;
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M m, T gate, T up, T, T limit) {
    return within(up, limit) * at_most(m.times_sigmoid(gate, gate), limit);
  }
};

template <>
struct ActivationRule<ActivationKind::Situ> : ActivationDefaults {
  static constexpr std::array kNames{"situ"};
  static constexpr bool kHasAlpha = true, kHasLimit = true;
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M m, T gate, T up, T alpha, T limit) {
    return m.times_sigmoid(alpha * m.tanh(gate / alpha), gate) * limit * m.tanh(up / limit);
  }
};

template <>
struct ActivationRule<ActivationKind::Relu2Gated> : ActivationDefaults {
  static constexpr std::array kNames{"relu2_gated", "sqrelu_gated"};
  template <class M, class T>
  SWITCHYARD_HOST_DEVICE static T of(M, T gate, T up, T, T) {
    const T x = gate < T(0) ? T(0) : gate;
    return up * x * x;
  }
};

template <ActivationKind... kKinds>
struct ActivationList {
  static constexpr std::array kAll{kKinds...};

  /// Calls f.template operator()<kind>(); false: there is no such kind.
  template <class F>
  SWITCHYARD_HOST_DEVICE static constexpr bool visit(ActivationKind kind, F&& f) {
    return ((kind == kKinds && (f.template operator()<kKinds>(), true)) || ...);
  }

  /// Whether W1 holds gate and up.
  static constexpr bool gated(ActivationKind kind) {
    return !((kind == kKinds && !ActivationRule<kKinds>::kGated) || ...);
  }
};

using Activations =
    ActivationList<ActivationKind::SiluGated, ActivationKind::GeluGated,
                   ActivationKind::GeluTanhGated, ActivationKind::ClampedSwiglu,
                   ActivationKind::Relu2, ActivationKind::SiluOfClamped,
                   ActivationKind::ClampedSilu, ActivationKind::Situ, ActivationKind::Relu2Gated>;

struct Activation {
  ActivationKind kind = ActivationKind::SiluGated;
  float alpha = 1.702f;  // ClampedSwiglu; Situ: > 0
  float limit = 7.0f;    // ClampedSwiglu, SiluOfClamped, ClampedSilu, Situ; > 0

  constexpr bool gated() const { return Activations::gated(kind); }
  bool operator==(const Activation&) const = default;
};

/// Throws Error(Unsupported) that lists the accepted names.
Activation activation_from_name(std::string_view name);
/// The canonical name: silu, gelu, gelu_tanh, clamped_swiglu, relu2, silu_of_clamped, clamped_silu,
/// situ, relu2_gated.
const char* activation_name(ActivationKind kind) noexcept;

}  // namespace switchyard
