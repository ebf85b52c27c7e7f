// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/scaled_gemm.h -- what the forms of ScaledGemm share. Contract: ops/fp8_ops.h.
#pragma once

#include "cpu/numbers.h"
#include "cpu/run.h"

namespace switchyard::cpu {

struct ScaledView {
  explicit ScaledView(const ScaledGemm& gemm)
      : g(gemm),
        num_experts(gemm.weights.dim(0)),
        n(gemm.weights.dim(1)),
        k(gemm.weights.dim(2)),
        num_steps((k + kQuantGroup - 1) / kQuantGroup) {}

  const ScaledGemm& g;
  int64_t num_experts, n, k, num_steps;

  int64_t first_row(int64_t e) const { return g.groups.first_row.as<int64_t>()[e]; }
  int64_t num_rows(int64_t e) const { return g.groups.counts.as<int32_t>()[e]; }
  int64_t source_row(int64_t r) const {
    return g.slots_per_row > 0 ? g.slot_of_row.as<int32_t>()[r] / g.slots_per_row : r;
  }
  const F8E4m3* src_row(int64_t r) const {
    return g.src.as<F8E4m3>() + (g.src_is_scattered ? r : source_row(r)) * k;
  }
  const F8E4m3* weight_row(int64_t e, int64_t j) const {
    return g.weights.as<F8E4m3>() + (e * n + j) * k;
  }

  // Of step b, whose elements lie in one block of either.
  float src_scale(int64_t r, int64_t b) const {
    const ConstTensor& values = g.src_scales.values;
    return values
        .as<float>()[source_row(r) * values.dim(1) + b * kQuantGroup / g.src_scales.block.cols];
  }
  float weight_scale(int64_t e, int64_t j, int64_t b) const {
    const ConstTensor& values = g.weight_scales.values;
    const ScaleBlock& block = g.weight_scales.block;
    return values.as<float>()[(e * values.dim(1) + j / block.rows) * values.dim(2) +
                              b * kQuantGroup / block.cols];
  }

  float row_weight(int64_t r) const {
    return g.row_weights.present() ? g.row_weights.as<float>()[g.slot_of_row.as<int32_t>()[r]]
                                   : 1.0f;
  }
  float bias(int64_t e, int64_t j) const {
    return g.bias.present() ? g.bias.as<float>()[e * n + j] : 0.0f;
  }
  void finish(int64_t e, int64_t r, int64_t j, float sum) const {
    store_number(g.dst, r * n + j, sum * row_weight(r) + bias(e, j));
  }
};

// Both forms give the same bits, but for those of a NaN.
void scaled_gemm_fast(const ScaledGemm& gemm, ThreadPool& pool);

}  // namespace switchyard::cpu
