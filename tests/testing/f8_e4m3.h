// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/f8_e4m3.h -- the format as its definition says, in float64.
#pragma once

#include <cmath>

namespace switchyard::testing {

// (-1)^s 2^(e - 7) (1 + m / 8), or (-1)^s 2^-6 m / 8 with e = 0; e = 15 with m = 7 is NaN.
inline double e4m3_value(int code) {
  const int e = code >> 3 & 15, m = code & 7;
  if (e == 15 && m == 7) return NAN;
  const double magnitude = e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

// The nearest of the finite codes, of two equally near ones the even one; 0x7f of a NaN. Codes of
// one sign are in the order of their values.
inline int nearest_e4m3(double x) {
  if (std::isnan(x)) return 0x7f;
  const double magnitude = std::abs(x);
  int low = 0, high = 0x7e;  // the nearest is one of them, at last neighbours
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (e4m3_value(middle) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - e4m3_value(low), above = e4m3_value(high) - magnitude;
  const int best = below < above || (below == above && low % 2 == 0) ? low : high;
  return std::signbit(x) ? best | 0x80 : best;
}

}  // namespace switchyard::testing
