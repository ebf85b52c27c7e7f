// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/grouped_gemm.h -- what the plain and the fast form of the grouped GEMM share. Contract:
// GroupedGemm in ops/ops.h.
#pragma once

#include <cmath>

#include "cpu/run.h"

namespace switchyard::cpu {

// ---- activation.h of one unrounded fp32 pair

struct Math {
  static float times_sigmoid(float x, float y) { return x / (1.0f + std::exp(-y)); }
  static float times_gelu(float x, float y) { return x * 0.5f * (1.0f + std::tanh(y)); }
  static float erf(float x) { return std::erf(x); }
  static float tanh(float x) { return std::tanh(x); }
};

inline float activate(const Activation& a, float gate, float up) {
  float y = 0;
  Activations::visit(a.kind, [&]<ActivationKind k>() {
    y = ActivationRule<k>::of(Math(), gate, up, a.alpha, a.limit);
  });
  return y;
}

// ---- where operands stand

struct GemmView {
  explicit GemmView(const GroupedGemm& gemm)
      : g(gemm),
        num_experts(gemm.weights.dim(0)),
        n(gemm.weights.dim(1)),
        k(gemm.weights.dim(2)),
        gated(gemm.activation != nullptr && gemm.activation->gated()),
        width(gated ? n / 2 : n) {}

  const GroupedGemm& g;
  int64_t num_experts, n, k;
  bool gated;
  int64_t width;  // columns of dst

  int64_t first_row(int64_t e) const { return g.groups.first_row.as<int64_t>()[e]; }
  int64_t num_rows(int64_t e) const { return g.groups.counts.as<int32_t>()[e]; }
  const Bf16* src_row(int64_t r) const {
    if (g.slots_per_row > 0) r = g.slot_of_row.as<int32_t>()[r] / g.slots_per_row;
    return g.src.as<Bf16>() + r * k;
  }
  const Bf16* weight_row(int64_t e, int64_t j) const {
    return g.weights.as<Bf16>() + (e * n + j) * k;
  }

  // Rows of the weights that make column c: its gate row and its up row (the same without a gate).
  int64_t gate_index(int64_t c) const {
    return gated && g.order == GateUpOrder::UpGate ? width + c : c;
  }
  int64_t up_index(int64_t c) const {
    return gated && g.order == GateUpOrder::GateUp ? width + c : c;
  }

  float bias(int64_t e, int64_t j) const {
    return g.bias.present() ? g.bias.as<float>()[e * n + j] : 0.0f;
  }
  // What scales the sums of row r: the router weight of its slot, where the weight is on the input.
  float row_scale(int64_t r) const {
    return g.row_weights.present() ? g.row_weights.as<float>()[g.slot_of_row.as<int32_t>()[r]]
                                   : 1.0f;
  }

  void store(int64_t r, int64_t c, float value) const {
    if (g.dst.dtype == DType::F32)
      g.dst.as<float>()[r * width + c] = value;
    else
      g.dst.as<Bf16>()[r * width + c] = Bf16(value);
  }
};

// ---- the forms

void grouped_gemm_plain(const GroupedGemm& gemm);
void grouped_gemm_fast(const GroupedGemm& gemm, ThreadPool& pool);

}  // namespace switchyard::cpu
