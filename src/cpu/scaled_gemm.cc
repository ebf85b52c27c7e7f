// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/scaled_gemm.cc -- what the grouped GEMM of f8_e4m3 means. Written to be read.
#include "cpu/scaled_gemm.h"

#include <algorithm>
#include <cmath>

namespace switchyard::cpu {
namespace {

// A product of two has 8 bits between 2^-18 and 2^18, so the sum of 128 is exact in double.
float products(const F8E4m3* a, const F8E4m3* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i)
    sum += double{static_cast<float>(a[i])} * double{static_cast<float>(b[i])};
  return static_cast<float>(sum);
}

void scaled_gemm_plain(const ScaledGemm& op) {
  const ScaledView v(op);
  for (int64_t e = 0; e < v.num_experts; ++e)
    for (int64_t r = v.first_row(e); r < v.first_row(e) + v.num_rows(e); ++r)
      for (int64_t j = 0; j < v.n; ++j) {
        float sum = 0;
        for (int64_t b = 0; b < v.num_steps; ++b) {
          const int64_t first = b * kQuantGroup, count = std::min(kQuantGroup, v.k - first);
          sum = std::fma(v.src_scale(r, b) * v.weight_scale(e, j, b),
                         products(v.src_row(r) + first, v.weight_row(e, j) + first, count), sum);
        }
        v.finish(e, r, j, sum);
      }
}

}  // namespace

template <>
void run(const ScaledGemm& op, const Context& context) {
  if (op.activation != nullptr) {
    run(op.products(), context);
    return run(op.activated(), context);
  }
  context.fast ? scaled_gemm_fast(op, context.pool) : scaled_gemm_plain(op);
}

}  // namespace switchyard::cpu
