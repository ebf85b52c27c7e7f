// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/random.h -- random values that depend on their own index only, so that a tensor can be
// filled in any order and by any device with the same bits.
#pragma once

#include <cstdint>

namespace switchyard {

// splitmix64
constexpr uint64_t hash_of(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// A different sequence for each tensor of each expert; experts by their global id.
constexpr uint64_t random_stream(uint64_t seed, int64_t expert, int tensor) {
  return hash_of(hash_of(seed) ^
                 (static_cast<uint64_t>(expert) << 8 | static_cast<uint64_t>(tensor)));
}

// Uniform in [-range, range). 24 bits: exact in fp32 up to the last product.
constexpr float uniform_at(uint64_t stream, uint64_t index, float range) {
  const auto bits = static_cast<int32_t>(hash_of(stream + index) >> 40);
  return (static_cast<float>(bits) * 0x1p-23f - 1.0f) * range;
}

}  // namespace switchyard
