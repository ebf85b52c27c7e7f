// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/fp8_ops.h -- experts in f8_e4m3: rows and weights of a byte, a scale for each block
// (docs/design/fp8.md).
#pragma once

#include "ops/expert_ops.h"
#include "switchyard/block_scales.h"

namespace switchyard {
// What a group's largest element counts as at least: a group of zeros has a scale, too.
inline constexpr float kLeastAmax = 1e-10f;

// Q128: dst[r, :] and scales[r, :] of src[r, :], for each group of `group` elements, fewer at the
// end of a row, by itself:
//
//     s = max(|x| of the group, kLeastAmax) / 448      rounded to fp32
//     q = F8E4m3(x / s)                                the quotient rounded to fp32, then to e4m3
//
// Maximum and division do not depend on an order, so bytes and scales are the same on every backend
// and in every batch. The sign of a zero stays. A NaN in the group: s = 0x7fc00000 and every q =
// 0x7f. Else an infinity: s = infinity, q = 0x7f for infinities and zeros of their sign for others.
struct QuantizeRows {
  static constexpr const char* kName = "quantize_rows";
  Tensor dst;                   // f8_e4m3 [R_cap, H]
  Tensor scales;                // f32 [R_cap, ceil(H / group)]
  ConstTensor src;              // bf16 or f32 [R_cap, H]
  ConstTensor num_rows;         // i32 [1]; absent: all
  int64_t group = kQuantGroup;  // H: one scale per row

  Work work(const ReadI32& read) const {
    const auto rows = static_cast<double>(num_rows.present() ? read(num_rows).front() : src.dim(0));
    return {row_bytes(src, rows) + row_bytes(dst, rows) + row_bytes(scales, rows)};
  }
};

// The row between the two GEMMs of an expert: dst[r, :] and scales[r, :] are QuantizeRows, in groups
// of kQuantGroup, of the f32 values activation(src[r, gate], src[r, up]), for the rows r of each
// expert. Nothing is rounded to bf16. An activation's last bit is its backend's own; QuantizeRows of
// what it gave is not.
struct QuantizeActivated {
  static constexpr const char* kName = "quantize_activated";
  Tensor dst;       // f8_e4m3 [C, I]
  Tensor scales;    // f32 [C, ceil(I / kQuantGroup)]
  ConstTensor src;  // f32 [C, 2I], or [C, I] when the activation has no gate: GEMM1's sums
  RowGroups groups;
  int64_t max_rows = 0;  // bound of the sum of counts
  const Activation* activation = nullptr;
  GateUpOrder order = GateUpOrder::Unset;  // of src's columns, when gated: GateUp or UpGate

  Work work(const ReadI32& read) const {
    double rows = 0;
    for (const int32_t count : read(groups.counts)) rows += count;
    return {row_bytes(src, rows) + row_bytes(dst, rows) + row_bytes(scales, rows)};
  }
};

// dst[r, j] = sum(r, j) * row_weight(r) + bias[e, j] for the rows r of each expert e, in fp32, then
// rounded to dst. Over the steps b of kQuantGroup of the inner dimension, in order:
//
//     sum = fma(sx[r, b] * sw[e, j, b], products(r, j, b), sum), from 0
//
// products(b) is the sum over the step of q of src times q of weights. Here it is exact, then
// rounded to fp32: this is the definition. The product of the two scales is rounded to fp32, and so
// is the fma. Tensor cores keep fewer bits of products(b): a device is within 2^-9 * sum over b of
// |sx sw| sum |q q| of it, in an order that depends on the inner dimension only.
//
// With an activation dst and dst_scales are QuantizeActivated of these sums, with the same bits
// whether the sums were in memory or not.
struct ScaledGemm {
  const char* name = "scaled_gemm";  // for traces: scaled_gemm1, scaled_gemm2
  Tensor dst;                        // bf16 or f32 [C, N]; with an activation f8_e4m3 [C, I]
  ConstTensor src;                   // f8_e4m3 [C, K_inner]
  // A block of one row, kWhole columns or a multiple of kQuantGroup of them.
  BlockScales src_scales;
  ConstTensor weights;  // f8_e4m3 [E_local, N, K_inner]
  // A block of any rows, kWhole columns or a multiple of kQuantGroup of them.
  BlockScales weight_scales;
  ConstTensor bias;  // f32 [E_local, N] or absent
  RowGroups groups;
  Layout layout = Layout::Contiguous;
  int64_t max_rows = 0;     // bound of the sum of counts
  ConstTensor slot_of_row;  // i32 [C], for the two that follow
  // Weight on the input: row_weight(r) is row_weights.flat[slot_of_row[r]]. Absent: 1.
  ConstTensor row_weights;  // f32 [R_cap, K]
  // > 0: src and its scales have R_cap rows, and row r of the groups is their row slot_of_row[r] /
  // slots_per_row.
  int slots_per_row = 0;
  bool src_is_scattered = false;  // but src, not its scales, has C rows, as with slots_per_row 0
  const Activation* activation = nullptr;
  GateUpOrder order = GateUpOrder::Unset;  // of N, when gated: GateUp or UpGate
  Tensor dst_scales;                       // f32 [C, ceil(I / kQuantGroup)]
  Tensor sums;                             // f32 [C, N], where they may have to be
  // As GroupedGemm has them.
  bool groups_are_older = false;
  const GemmConfig* config = nullptr;
  int num_sms = 0;

  Work work(const ReadI32& read) const {
    double rows = 0, active = 0;
    for (const int32_t count : read(groups.counts)) rows += count, active += count > 0;
    const auto experts = static_cast<double>(std::max<int64_t>(1, weights.dim(0)));
    const double weight_bytes =
        active / experts * (tensor_bytes(weights) + tensor_bytes(weight_scales.values));
    const double flops = 2 * rows * static_cast<double>(weights.dim(1) * weights.dim(2));
    return {.bytes = weight_bytes + row_bytes(src, rows) + row_bytes(src_scales.values, rows) +
                     row_bytes(dst, rows) +
                     (dst_scales.present() ? row_bytes(dst_scales, rows) : 0),
            .flops = flops,
            .weight_bytes = weight_bytes,
            .f8_flops = flops};
  }

  // The two steps of one with an activation, over `sums`.
  ScaledGemm products() const {
    ScaledGemm gemm = *this;
    gemm.dst = sums;
    gemm.activation = nullptr, gemm.dst_scales = gemm.sums = {};
    return gemm;
  }
  QuantizeActivated activated() const {
    return {dst, dst_scales, sums, groups, max_rows, activation, order};
  }
};

using Fp8Ops = OpList<QuantizeRows, QuantizeActivated, ScaledGemm>;

}  // namespace switchyard
