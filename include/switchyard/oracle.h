// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/oracle.h -- public: the layer in float64, to verify against.
#pragma once

#include "switchyard/config.h"
#include "switchyard/tensor.h"
#include "switchyard/weights.h"

namespace [[gnu::visibility("default")]] switchyard {

/// The whole layer in float64 from bf16 operands, without any rounding between, for E_local = E
/// weights on the CPU. Written to be read; a token costs 6 K H I flops on one core.
///
///   dst      out  f64 [T, H]
///   hidden   in   bf16 [T, H]
///   ids      in   i32 [T, K], or absent: the gate is evaluated in float64, too
///   weights  in   f32 [T, K]
///   token_ids in  i32 or i64 [T] in [0, V), where they choose the experts and no ids are given
///
/// Throws Error(ShapeMismatch), BadRouting for a token id that is none.
void oracle_forward(Tensor dst, const MoeConfig& config, const LayerWeights& weights,
                    ConstTensor hidden, ConstTensor ids = {}, ConstTensor router_weights = {},
                    ConstTensor token_ids = {});

/// The gate alone in float64. ids i32 [T, K], weights f64 [T, K]. Throws as oracle_forward.
void oracle_gate(Tensor ids, Tensor weights, const MoeConfig& config, const RouterWeights& router,
                 ConstTensor hidden, ConstTensor token_ids = {});

/// How far `actual` (bf16 or f32 [T, H]) is from `expected` (f64 [T, H]).
struct Difference {
  double rel_error = 0;      // ||actual - expected||_2 / ||expected||_2, over everything
  double max_row_error = 0;  // the same per row; a row that should be 0 counts its absolute norm
  int64_t worst_row = -1;
  double max_abs_error = 0;
  double calc_diff = 0;  // 1 - 2 sum(xy) / sum(x^2 + y^2)
};
/// NaN anywhere in `actual` gives NaN errors. Throws Error(ShapeMismatch).
Difference compare(ConstTensor actual, ConstTensor expected);

}  // namespace switchyard
