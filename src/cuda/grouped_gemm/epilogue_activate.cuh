// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/epilogue_activate.cuh -- the activation: of a gate and an up value, which
// leaves the output in sum 0 of a row, or of every sum.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/grouped_gemm/fragment.cuh"
#include "ops/expert_ops.h"

namespace switchyard::cuda {

struct Activate {
  int kind;  // an ActivationKind, or -1
  float alpha, limit;
  bool up_first;

  static Activate of(const GroupedGemm& g) {
    if (!g.activation) return {-1, 0, 0, false};
    return {static_cast<int>(g.activation->kind), g.activation->alpha, g.activation->limit,
            g.order == GateUpOrder::UpGate};
  }

  template <int kSums>
  __device__ void operator()(const Fragment<kSums>& f, const OutputTile& t) const {
    if (kind < 0) return;
    Activations::visit(static_cast<ActivationKind>(kind),
                       [&]<ActivationKind kKind>() { run<kKind>(f, t); });
  }

  // Where rows come first: of two blocks, which leaves the output in the first. Without a gate there is
  // none.
  template <int kSums>
  __device__ void operator()(const RowFragment<kSums>& f, const OutputTile&) const {
    if (kind < 0) return;
    Activations::visit(static_cast<ActivationKind>(kind), [&]<ActivationKind kKind>() {
      if constexpr (ActivationRule<kKind>::kGated) run<kKind>(f);
    });
  }

 private:
  template <ActivationKind kKind, int kSums>
  __device__ void run(const RowFragment<kSums>& f) const {
#pragma unroll
    for (int j = 0; j < f.kBlocks; j += 2)
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        float &first = f.at(j, s / 2, s % 2), second = f.at(j + 1, s / 2, s % 2);
        first = ActivationRule<kKind>::of(FastMath(), up_first ? second : first,
                                          up_first ? first : second, alpha, limit);
      }
  }
  template <ActivationKind kKind, int kSums>
  __device__ void run(const Fragment<kSums>& f, const OutputTile& t) const {
#pragma unroll
    for (int j = 0; j < f.kBlocks; ++j) {
      if (f.ends(j, t)) break;
      if constexpr (!ActivationRule<kKind>::kGated) {
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          float& sum = f.at(j, s / 2, s % 2);
          sum = ActivationRule<kKind>::of(FastMath(), sum, sum, alpha, limit);
        }
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float &first = f.at(j, 0, i), second = f.at(j, 1, i);
          first = ActivationRule<kKind>::of(FastMath(), up_first ? second : first,
                                            up_first ? first : second, alpha, limit);
        }
      }
    }
  }
};

}  // namespace switchyard::cuda
