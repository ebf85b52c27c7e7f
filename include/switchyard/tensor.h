// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/tensor.h -- public: typed views of memory that somebody else owns.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

struct CUstream_st;  // cudaStream_t without including CUDA

namespace [[gnu::visibility("default")]] switchyard {

enum class DType : uint8_t { Bf16, F16, F32, F64, I32, I64, F8E4m3 };

constexpr int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::F8E4m3: return 1;
    case DType::Bf16:
    case DType::F16: return 2;
    case DType::F32:
    case DType::I32: return 4;
    case DType::F64:
    case DType::I64: return 8;
  }
  return 0;
}

/// "bf16", "f16", "f32", "f64", "i32", "i64", "f8_e4m3".
const char* dtype_name(DType dtype) noexcept;

/// Where memory lives and work runs.
enum class DeviceKind : uint8_t { Cpu, Cuda };

/// "cpu", "cuda".
const char* device_name(DeviceKind device) noexcept;

/// The upper half of a float. Rounds to nearest, ties to even; a NaN stays a NaN.
class Bf16 {
 public:
  Bf16() = default;
  explicit Bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits_ =
        static_cast<uint16_t>(is_nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits_} << 16); }

  static Bf16 from_bits(uint16_t bits) {
    Bf16 value;
    value.bits_ = bits;
    return value;
  }
  uint16_t bits() const { return bits_; }

 private:
  uint16_t bits_;
};
static_assert(sizeof(Bf16) == 2 && std::is_trivially_copyable_v<Bf16>);

/// OCP FP8 E4M3: sign, 4 bits of exponent, 3 of mantissa, subnormals of 2^-9, no infinity. Rounds to
/// nearest, ties to even, and saturates at +-448; every NaN becomes 0x7f, and 0xff is one, too.
class F8E4m3 {
 public:
  static constexpr float kMax = 448.0f;

  F8E4m3() = default;
  explicit F8E4m3(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value), magnitude = u & 0x7fffffffu;
    const uint32_t sign = (u >> 24) & 0x80u;
    if (magnitude > 0x7f800000u)
      bits_ = 0x7f;
    else if (magnitude < 0x3c800000u)  // below 2^-6: the sum's last bit is 2^-9
      bits_ = static_cast<uint8_t>(
          sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 16384.0f) & 0xfu));
    else if (magnitude >= 0x43e00000u)  // 448
      bits_ = static_cast<uint8_t>(sign | 0x7e);
    else  // the exponent's bias becomes 7
      bits_ = static_cast<uint8_t>(
          sign | (((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3)));
  }
  explicit operator float() const {
    const uint32_t sign = uint32_t{bits_ & 0x80u} << 24, magnitude = bits_ & 0x7fu;
    if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
    if (magnitude >= 8) return std::bit_cast<float>(sign | ((magnitude + (120u << 3)) << 20));
    const float subnormal = static_cast<float>(magnitude) * 0x1p-9f;
    return sign != 0 ? -subnormal : subnormal;
  }

  static F8E4m3 from_bits(uint8_t bits) {
    F8E4m3 value;
    value.bits_ = bits;
    return value;
  }
  uint8_t bits() const { return bits_; }

 private:
  uint8_t bits_;
};
static_assert(sizeof(F8E4m3) == 1 && std::is_trivially_copyable_v<F8E4m3>);

template <class T>
inline constexpr bool kHasDType = false;
template <class T>
inline constexpr DType kDTypeOf = DType::F32;
#define SWITCHYARD_DTYPE(type, name)            \
  template <>                                   \
  inline constexpr bool kHasDType<type> = true; \
  template <>                                   \
  inline constexpr DType kDTypeOf<type> = DType::name
SWITCHYARD_DTYPE(Bf16, Bf16);
SWITCHYARD_DTYPE(float, F32);
SWITCHYARD_DTYPE(double, F64);
SWITCHYARD_DTYPE(int32_t, I32);
SWITCHYARD_DTYPE(int64_t, I64);
SWITCHYARD_DTYPE(F8E4m3, F8E4m3);
#undef SWITCHYARD_DTYPE

/// Up to four dimensions, outermost first. Rank 0 means "no tensor"; a dimension may be 0.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<int64_t> dims) {
    for (const int64_t d : dims)
      if (rank_ < kMaxRank) dims_[static_cast<size_t>(rank_++)] = d;
  }
  constexpr int rank() const { return rank_; }
  constexpr int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  constexpr int64_t count() const {
    int64_t n = rank_ == 0 ? 0 : 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// A view: address, element type, shape, place. Row-major without gaps. It owns nothing: the caller
/// keeps the memory alive until the work that was given the view has ended (see MoeLayer::wait).
/// `Void` is `void` or `const void`.
template <class Void>
struct BasicTensor {
  Void* data = nullptr;
  DType dtype = DType::F32;
  Shape shape;
  DeviceKind device = DeviceKind::Cpu;

  BasicTensor() = default;
  BasicTensor(Void* address, DType type, Shape extent, DeviceKind place = DeviceKind::Cpu)
      : data(address), dtype(type), shape(extent), device(place) {}

  /// From a typed pointer: `Tensor(x.data(), {T, H})`.
  template <class T>
  requires kHasDType<std::remove_const_t<T>> && std::is_convertible_v<T*, Void*> BasicTensor(
      T* address, Shape extent, DeviceKind place = DeviceKind::Cpu)
      : data(address), dtype(kDTypeOf<std::remove_const_t<T>>), shape(extent), device(place) {}

  /// A mutable view is usable wherever a constant one is asked for.
  template <class Other>
  requires std::is_const_v<Void> && std::is_same_v<Other, void> BasicTensor(
      const BasicTensor<Other>& t)
      : data(t.data), dtype(t.dtype), shape(t.shape), device(t.device) {}

  /// The same view: its memory may hold anything.
  bool operator==(const BasicTensor&) const = default;
  /// Whether there is a tensor at all; one without elements is present, too.
  bool present() const { return shape.rank() > 0; }
  int64_t dim(int i) const { return shape[i]; }
  int64_t count() const { return shape.count(); }
  int64_t bytes() const { return count() * dtype_bytes(dtype); }

  template <class T>
  auto as() const {
    using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return static_cast<Element*>(data);
  }
  /// Rows [first, first + num) of the outermost dimension.
  BasicTensor rows(int64_t first, int64_t num) const {
    BasicTensor t = *this;
    const int64_t row_count = dim(0) == 0 ? 0 : count() / dim(0);
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    if (data != nullptr) t.data = static_cast<Byte*>(data) + first * row_count * dtype_bytes(dtype);
    switch (shape.rank()) {
      case 1: t.shape = {num}; break;
      case 2: t.shape = {num, shape[1]}; break;
      case 3: t.shape = {num, shape[1], shape[2]}; break;
      default: t.shape = {num, shape[1], shape[2], shape[3]}; break;
    }
    return t;
  }
};

using Tensor = BasicTensor<void>;
using ConstTensor = BasicTensor<const void>;

/// Memory that is lent to a call or a layer: at least `bytes` bytes, aligned to kAlignment.
struct Workspace {
  static constexpr size_t kAlignment =
      128;  // a cache line pair on x86, an L2 sector group on Hopper

  void* data = nullptr;
  size_t bytes = 0;

  bool operator==(const Workspace&) const = default;
};

}  // namespace switchyard
