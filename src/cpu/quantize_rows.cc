// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/quantize_rows.cc -- what quantising rows to f8_e4m3 means. Written to be read.
#include "cpu/quantize_rows.h"

#include "cpu/numbers.h"

namespace switchyard::cpu {
namespace {

void quantize_rows_plain(const QuantizeRows& op) {
  const int64_t hidden = op.src.dim(1), num_groups = op.scales.dim(1);
  const int64_t num_rows = op.num_rows.present() ? op.num_rows.as<int32_t>()[0] : op.src.dim(0);
  for (int64_t r = 0; r < num_rows; ++r)
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t first = r * hidden + g * op.group;
      const int64_t count = std::min(op.group, hidden - g * op.group);
      op.scales.as<float>()[r * num_groups + g] =
          quantize_group(op.dst.as<F8E4m3>() + first, count,
                         [&](int64_t i) { return load_number(op.src, first + i); });
    }
}

void quantize_activated_plain(const QuantizeActivated& op) {
  const int64_t width = op.dst.dim(1), num_groups = op.scales.dim(1);
  for (int64_t e = 0; e < op.groups.counts.dim(0); ++e) {
    const int64_t begin = op.groups.first_row.as<int64_t>()[e];
    for (int64_t r = begin; r < begin + op.groups.counts.as<int32_t>()[e]; ++r)
      for (int64_t g = 0; g < num_groups; ++g) {
        const int64_t first = g * kQuantGroup, count = std::min(kQuantGroup, width - first);
        float values[kQuantGroup];
        activate_group(op, values, r, first, count);
        op.scales.as<float>()[r * num_groups + g] = quantize_group(
            op.dst.as<F8E4m3>() + r * width + first, count, [&](int64_t i) { return values[i]; });
      }
  }
}

}  // namespace

template <>
void run(const QuantizeRows& op, const Context& context) {
  context.fast ? quantize_rows_fast(op, context.pool) : quantize_rows_plain(op);
}

template <>
void run(const QuantizeActivated& op, const Context& context) {
  context.fast ? quantize_activated_fast(op, context.pool) : quantize_activated_plain(op);
}

}  // namespace switchyard::cpu
