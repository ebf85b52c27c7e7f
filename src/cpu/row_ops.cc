// src/cpu/row_ops.cc -- what scatter, gather and combine mean.
#include "cpu/row_ops.h"

#include <cstring>

namespace switchyard::cpu {
namespace {

// One row of dst: the rows of src named by `rows`, times `weights` (absent: 1), in that order, then
// the addend; fp32, one rounding.
void sum_rows(Tensor dst, int64_t dst_row, ConstTensor src, const int32_t* rows,
              const float* weights, int64_t num_rows, const Addend& addend) {
  const int64_t hidden = dst.dim(1);
  for (int64_t h = 0; h < hidden; ++h) {
    float sum = 0;
    for (int64_t i = 0; i < num_rows; ++i) {
      if (rows[i] == kNoRow) continue;  // whatever the weight and src hold
      const float value = static_cast<float>(src.as<Bf16>()[rows[i] * hidden + h]);
      sum += weights ? weights[i] * value : value;
    }
    if (addend.rows.present()) {
      const float value = addend.rows.as<float>()[dst_row * hidden + h];
      sum += addend.scale.present() ? addend.scale.as<float>()[dst_row] * value : value;
    }
    dst.as<Bf16>()[dst_row * hidden + h] = Bf16(sum);
  }
}

}  // namespace

void scatter_rows_plain(Tensor dst, ConstTensor src, ConstTensor row_of_slot,
                        ConstTensor num_rows) {
  const int64_t top_k = row_of_slot.dim(1), hidden = src.dim(1);
  for (int64_t s = 0; s < num_rows.as<int32_t>()[0] * top_k; ++s)
    if (const int64_t row = row_of_slot.as<int32_t>()[s]; row != kNoRow)
      std::memcpy(dst.as<Bf16>() + row * hidden, src.as<Bf16>() + s / top_k * hidden,
                  static_cast<size_t>(hidden) * sizeof(Bf16));
}

void gather_rows_plain(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor weights,
                       const Addend& addend, ConstTensor num_rows, EmptyRows empty) {
  const int64_t top_k = row_of_slot.dim(1);
  for (int64_t r = 0; r < num_rows.as<int32_t>()[0]; ++r) {
    const int32_t* places = row_of_slot.as<int32_t>() + r * top_k;
    if (stays(places, top_k, empty)) continue;
    sum_rows(dst, r, src, places, weights.present() ? weights.as<float>() + r * top_k : nullptr,
             top_k, addend);
  }
}

void sum_partials_plain(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend) {
  const int64_t num_ranks = return_row.dim(1);
  for (int64_t t = 0; t < dst.dim(0); ++t)
    sum_rows(dst, t, src, return_row.as<int32_t>() + t * num_ranks, nullptr, num_ranks, addend);
}

}  // namespace switchyard::cpu
