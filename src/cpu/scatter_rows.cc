// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/scatter_rows.cc -- rows to their places in an expert buffer.
#include <cstring>

#include "cpu/rows.h"

namespace switchyard::cpu {
namespace {

void scatter_row(const ScatterRows& op, int64_t r) {
  const int64_t top_k = op.row_of_slot.dim(1),
                row_bytes = op.dst.dim(1) * dtype_bytes(op.dst.dtype);
  for (int64_t s = r * top_k; s < (r + 1) * top_k; ++s)
    if (const int64_t row = op.row_of_slot.as<int32_t>()[s]; row != kNoRow)
      std::memcpy(op.dst.as<std::byte>() + row * row_bytes, row_of(op.src, r),
                  static_cast<size_t>(row_bytes));
}

}  // namespace

template <>
void run(const ScatterRows& op, const Context& context) {
  const int64_t num_rows =
      op.num_rows.present() ? op.num_rows.as<int32_t>()[0] : op.row_of_slot.dim(0);
  if (context.fast)
    return for_each_row(num_rows, context.pool, [&](int64_t r) { scatter_row(op, r); });
  for (int64_t r = 0; r < num_rows; ++r) scatter_row(op, r);
}

}  // namespace switchyard::cpu
