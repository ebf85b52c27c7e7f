// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/grouped_gemm.cc
#include "cpu/grouped_gemm.h"

namespace switchyard::cpu {
namespace {

double dot(const Bf16* a, const Bf16* b, int64_t k) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i)
    sum += double{static_cast<float>(a[i])} * double{static_cast<float>(b[i])};
  return sum;
}

}  // namespace

// What grouped_gemm means. Written to be read, not to be fast: every other form is tested against
// it.
//
//     s = src[r, :] * weights[e, j, :]^T * scale[r] + bias[e, j]     dst[r, c] = activation(s_gate,
//     s_up)
//
// for the rows r of expert e. Sums in double, rounded once to float: the error a test sees is the
// other form's.
void grouped_gemm_plain(const GroupedGemm& op) {
  const GemmView v(op);
  for (int64_t e = 0; e < v.num_experts; ++e) {
    for (int64_t r = v.first_row(e); r < v.first_row(e) + v.num_rows(e); ++r) {
      const auto sum = [&](int64_t j) {
        return static_cast<float>(dot(v.src_row(r), v.weight_row(e, j), v.k)) * v.row_scale(r) +
               v.bias(e, j);
      };
      for (int64_t c = 0; c < v.width; ++c) {
        const float gate = sum(v.gate_index(c));
        const float up = v.gated ? sum(v.up_index(c)) : gate;
        v.store(r, c, op.activation ? activate(*op.activation, gate, up) : gate);
      }
    }
  }
}

template <>
void run(const GroupedGemm& op, const Context& context) {
  context.fast ? grouped_gemm_fast(op, context.pool) : grouped_gemm_plain(op);
}

}  // namespace switchyard::cpu
