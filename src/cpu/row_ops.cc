// src/cpu/row_ops.cc -- what scatter, gather and combine mean.
#include "cpu/row_ops.h"

#include <cstring>

#include "cpu/numbers.h"

namespace switchyard::cpu {
namespace {

// One row of dst, with the addend; fp32, one rounding.
void sum_row(Tensor dst, int64_t row, const SlotSums& sums, const Addend& addend) {
  const int64_t hidden = dst.dim(1);
  for (int64_t h = 0; h < hidden; ++h) {
    float sum = sum_of(sums, row, h);
    if (addend.rows.present()) {
      const float value = addend.rows.as<float>()[row * hidden + h];
      sum += addend.scale.present() ? addend.scale.as<float>()[row] * value : value;
    }
    store_number(dst, row * hidden + h, sum);
  }
}

}  // namespace

void scatter_rows_plain(const ScatterRows& op) {
  const int64_t top_k = op.row_of_slot.dim(1), hidden = op.src.dim(1);
  for (int64_t s = 0; s < op.num_rows.as<int32_t>()[0] * top_k; ++s)
    if (const int64_t row = op.row_of_slot.as<int32_t>()[s]; row != kNoRow)
      std::memcpy(op.dst.as<Bf16>() + row * hidden, op.src.as<Bf16>() + s / top_k * hidden,
                  static_cast<size_t>(hidden) * sizeof(Bf16));
}

float sum_of(const SlotSums& sums, int64_t r, int64_t h) {
  const int64_t top_k = sums.row_of_slot.dim(1), hidden = sums.rows.dim(1);
  float sum = 0;
  for (int64_t s = r * top_k; s < (r + 1) * top_k; ++s) {
    const int64_t row = sums.row_of_slot.as<int32_t>()[s];
    if (row == kNoRow) continue;
    const float value = load_number(sums.rows, row * hidden + h);
    sum += sums.weights.present() ? sums.weights.as<float>()[s] * value : value;
  }
  return sum;
}

void gather_rows_plain(const GatherRows& op) {
  const int64_t top_k = op.sums.row_of_slot.dim(1);
  for (int64_t r = 0; r < op.num_rows.as<int32_t>()[0]; ++r)
    if (!stays(op.sums.row_of_slot.as<int32_t>() + r * top_k, r, top_k, op.kept))
      sum_row(op.dst, r, op.sums, op.addend);
}

void sum_partials_plain(const SumPartials& op) {
  for (int64_t t = 0; t < op.dst.dim(0); ++t)
    sum_row(op.dst, t, {op.src, op.return_row, {}}, op.addend);
}

template <>
void run(const ScatterRows& op, const Context& context) {
  context.fast ? scatter_rows_fast(op, context.pool) : scatter_rows_plain(op);
}

template <>
void run(const GatherRows& op, const Context& context) {
  context.fast ? gather_rows_fast(op, context.pool) : gather_rows_plain(op);
}

template <>
void run(const SumPartials& op, const Context& context) {
  context.fast ? sum_partials_fast(op, context.pool) : sum_partials_plain(op);
}

}  // namespace switchyard::cpu
