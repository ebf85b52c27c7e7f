// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/buffer.h -- memory for tests: random or poisoned, with guard elements on both
// sides.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "switchyard/tensor.h"

namespace switchyard::testing {

template <class T>
T poison_value() {
  if constexpr (std::is_same_v<T, Bf16>)
    return Bf16::from_bits(0x7fc1);
  else if constexpr (std::is_same_v<T, F8E4m3>)
    return F8E4m3::from_bits(0xff);  // a NaN that no rounding gives
  else if constexpr (std::is_floating_point_v<T>)
    return std::numeric_limits<T>::quiet_NaN();
  else
    return static_cast<T>(0x7FFFFFFF);
}

// Elements of one tensor between two guards. A fresh buffer is poisoned: reading what nobody wrote
// shows.
template <class T>
class Buffer {
 public:
  static constexpr int64_t kGuard = 64;  // elements: a multiple of 16 bytes for every T

  Buffer() = default;
  explicit Buffer(Shape shape)
      : shape_(shape), all_(static_cast<size_t>(shape.count() + 2 * kGuard), poison_value<T>()) {
    for (int64_t i = 0; i < kGuard; ++i) {
      all_[static_cast<size_t>(i)] = guard();
      all_[all_.size() - 1 - static_cast<size_t>(i)] = guard();
    }
  }

  T* data() { return all_.data() + kGuard; }
  const T* data() const { return all_.data() + kGuard; }
  int64_t count() const { return shape_.count(); }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  Tensor view() { return {data(), shape_}; }
  ConstTensor view() const { return {data(), shape_}; }
  std::vector<T> values() const { return {data(), data() + count()}; }

  bool guards_intact() const {
    const T expected = guard();
    for (int64_t i = 0; i < kGuard; ++i)
      if (std::memcmp(&all_[static_cast<size_t>(i)], &expected, sizeof(T)) != 0 ||
          std::memcmp(&all_[all_.size() - 1 - static_cast<size_t>(i)], &expected, sizeof(T)) != 0)
        return false;
    return true;
  }

 private:
  static T guard() {
    T value;
    std::memset(static_cast<void*>(&value), 0x5a, sizeof(T));
    return value;
  }

  Shape shape_;
  std::vector<T> all_;
};

// Uniform in [-range, range].
inline Buffer<Bf16> random_bf16(Shape shape, uint64_t seed, float range = 1.0f) {
  Buffer<Bf16> buffer(shape);
  std::mt19937_64 rng(seed);
  std::uniform_real_distribution<float> uniform(-range, range);
  for (int64_t i = 0; i < buffer.count(); ++i) buffer[i] = Bf16(uniform(rng));
  return buffer;
}

inline Buffer<float> random_f32(Shape shape, uint64_t seed, float low = -1.0f, float high = 1.0f) {
  Buffer<float> buffer(shape);
  std::mt19937_64 rng(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  for (int64_t i = 0; i < buffer.count(); ++i) buffer[i] = uniform(rng);
  return buffer;
}

template <class T>
bool same_bits(const Buffer<T>& a, const Buffer<T>& b) {
  return a.count() == b.count() &&
         (a.count() == 0 ||
          std::memcmp(a.data(), b.data(), static_cast<size_t>(a.count()) * sizeof(T)) == 0);
}

}  // namespace switchyard::testing
