// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/keyed_digest.h -- SipHash-2-4 of Aumasson and Bernstein (Indocrypt 2012): who knows the
// key can say the digest of any message, who does not cannot.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace switchyard {

struct DigestKey {
  uint64_t low = 0, high = 0;
};

// The same on machines of either byte order.
inline uint64_t keyed_digest(const DigestKey& key, std::span<const std::byte> message) {
  uint64_t a = key.low ^ 0x736f6d6570736575, b = key.high ^ 0x646f72616e646f6d;
  uint64_t c = key.low ^ 0x6c7967656e657261, d = key.high ^ 0x7465646279746573;
  const auto rounds = [&](int num) {
    for (int i = 0; i < num; ++i) {
      a += b, c += d;
      b = std::rotl(b, 13) ^ a, d = std::rotl(d, 16) ^ c;
      a = std::rotl(a, 32);
      c += b, a += d;
      b = std::rotl(b, 17) ^ c, d = std::rotl(d, 21) ^ a;
      c = std::rotl(c, 32);
    }
  };
  const auto take = [&](uint64_t word) {
    d ^= word;
    rounds(2);
    a ^= word;
  };
  const size_t size = message.size();
  uint64_t word = 0;
  for (size_t i = 0; i < size; ++i) {
    word |= std::to_integer<uint64_t>(message[i]) << (8 * (i % 8));
    if (i % 8 != 7) continue;
    take(word);
    word = 0;
  }
  take(word | static_cast<uint64_t>(size) << 56);
  c ^= 0xff;
  rounds(4);
  return a ^ b ^ c ^ d;
}

}  // namespace switchyard
