// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/checked.h -- sizes that cannot overflow unnoticed.
#pragma once

#include <cstdint>

#include "base/require.h"

namespace switchyard {

// a * b and a + b of non-negative sizes; ShapeMismatch naming `what` instead of a wrapped number.
inline int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t product = 0;
  SWITCHYARD_REQUIRE(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), ShapeMismatch,
                     what, ": ", a, " * ", b, ", does not fit 63 bits. Use smaller sizes.");
  return product;
}

inline int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t sum = 0;
  SWITCHYARD_REQUIRE(a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, &sum), ShapeMismatch, what,
                     ": ", a, " + ", b, ", does not fit 63 bits. Use smaller sizes.");
  return sum;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return a / b + (a % b != 0);
}
constexpr int64_t align_up(int64_t a, int64_t alignment) {
  return ceil_div(a, alignment) * alignment;
}

}  // namespace switchyard
