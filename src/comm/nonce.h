// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/nonce.h -- a number that nobody else draws.
#pragma once

#include <cstdint>
#include <random>

namespace switchyard {

inline uint64_t draw_nonce() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

}  // namespace switchyard
