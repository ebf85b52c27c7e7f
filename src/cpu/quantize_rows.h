// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/quantize_rows.h -- what the forms of QuantizeRows and QuantizeActivated share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/grouped_gemm.h"
#include "cpu/rows.h"

namespace switchyard::cpu {

// One group of the numbers value(i), as ops/fp8_ops.h defines it; returns its scale.
template <class Value>
float quantize_group(F8E4m3* dst, int64_t count, Value&& value) {
  float most = 0;
  bool has_nan = false;
  for (int64_t i = 0; i < count; ++i) {
    most = std::max(most, std::abs(value(i)));
    has_nan |= std::isnan(value(i));
  }
  const float scale =
      has_nan ? std::numeric_limits<float>::quiet_NaN() : std::max(most, kLeastAmax) / F8E4m3::kMax;
  for (int64_t i = 0; i < count; ++i) dst[i] = F8E4m3(value(i) / scale);
  return scale;
}

// f(r) for every row of the groups.
template <class F>
void for_each_row_of(const RowGroups& groups, ThreadPool& pool, F&& f) {
  const int64_t num_experts = groups.counts.dim(0);
  const auto* counts = groups.counts.as<int32_t>();
  const int64_t most = num_experts == 0 ? 0 : *std::max_element(counts, counts + num_experts);
  const int64_t parts = (most + kRowsPerTask - 1) / kRowsPerTask;
  pool.parallel_for(num_experts * parts, [&](int64_t task) {
    const int64_t e = task / parts, first = groups.first_row.as<int64_t>()[e];
    const int64_t begin = task % parts * kRowsPerTask;
    const int64_t end = std::min<int64_t>(begin + kRowsPerTask, counts[e]);
    for (int64_t r = begin; r < end; ++r) f(first + r);
  });
}

// Activated values [first, first + count) of row r, unrounded.
inline void activate_group(const QuantizeActivated& op, float* dst, int64_t r, int64_t first,
                           int64_t count) {
  const int64_t n = op.src.dim(1), width = op.dst.dim(1);
  const bool gated = op.activation->gated(), up_first = op.order == GateUpOrder::UpGate;
  const float* row = op.src.as<float>() + r * n;
  const float* gate = row + (gated && up_first ? width : 0) + first;
  const float* up = row + (gated && !up_first ? width : 0) + first;
  for (int64_t i = 0; i < count; ++i) dst[i] = activate(*op.activation, gate[i], up[i]);
}

// Both forms give the same bytes.
void quantize_rows_fast(const QuantizeRows& op, ThreadPool& pool);
void quantize_activated_fast(const QuantizeActivated& op, ThreadPool& pool);

}  // namespace switchyard::cpu
