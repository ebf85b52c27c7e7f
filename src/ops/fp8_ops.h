// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/fp8_ops.h -- experts in f8_e4m3: rows and weights of a byte, a scale for each block
// (docs/design/fp8.md).
#pragma once

#include "ops/expert_ops.h"

namespace switchyard {

// Elements of a row that share a scale.
inline constexpr int64_t kQuantGroup = 128;
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

using Fp8Ops = OpList<QuantizeRows, QuantizeActivated>;

}  // namespace switchyard
