// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/arrange_weights.cc -- in blocks of rows: of a transpose, a cache line has a few of each.
#include <algorithm>

#include "base/checked.h"
#include "cpu/numbers.h"
#include "cpu/run.h"
#include "plan/index.h"

namespace switchyard::cpu {
namespace {

constexpr int64_t kRows = 64;

// Rows [first, last) of expert e.
template <class From, class To>
void arrange_rows(const ArrangeWeights& op, int64_t e, int64_t first, int64_t last) {
  const int64_t num_rows = op.dst.dim(1), width = op.dst.dim(2);
  const int64_t row_step = op.transposed ? 1 : width, column_step = op.transposed ? num_rows : 1;
  const auto* from = op.src.as<From>() + e * num_rows * width;
  auto* to = op.dst.as<To>() + e * num_rows * width;
  const auto move = [&](int64_t n, int64_t column) {
    const int64_t row = op.interleaved ? interleaved_row(n, num_rows) : n;
    to[n * width + column] = To(from[row * row_step + column * column_step]);
  };
  if (op.transposed)
    for (int64_t column = 0; column < width; ++column)
      for (int64_t n = first; n < last; ++n) move(n, column);
  else
    for (int64_t n = first; n < last; ++n)
      for (int64_t column = 0; column < width; ++column) move(n, column);
}

template <class From, class To>
void arrange(const ArrangeWeights& op, const Context& context) {
  const int64_t num_rows = op.dst.dim(1), blocks = ceil_div(num_rows, kRows);
  context.pool.parallel_for(op.dst.dim(0) * blocks, [&](int64_t task) {
    const int64_t first = task % blocks * kRows;
    arrange_rows<From, To>(op, task / blocks, first, std::min(first + kRows, num_rows));
  });
}

}  // namespace

template <>
void run(const ArrangeWeights& op, const Context& context) {
  if (op.dst.dtype == DType::Bf16) return arrange<Bf16, Bf16>(op, context);
  op.src.dtype == DType::Bf16 ? arrange<Bf16, float>(op, context)
                              : arrange<float, float>(op, context);
}

}  // namespace switchyard::cpu
