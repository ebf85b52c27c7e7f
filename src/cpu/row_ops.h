// src/cpu/row_ops.h -- operations that move or add whole rows. Contracts: ops/ops.h. The plain
// forms define the meaning; the fast ones give the same bits.
#pragma once

#include <algorithm>

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

// Whether gather_rows leaves a row of these places as it is.
inline bool stays(const int32_t* places, int64_t top_k, EmptyRows empty) {
  return empty == EmptyRows::Stay &&
         std::all_of(places, places + top_k, [](int32_t row) { return row == kNoRow; });
}

void scatter_rows_plain(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows);
void scatter_rows_fast(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows,
                       ThreadPool& pool);

void gather_rows_plain(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor weights,
                       const Addend& addend, ConstTensor num_rows, EmptyRows empty);
void gather_rows_fast(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor weights,
                      const Addend& addend, ConstTensor num_rows, EmptyRows empty,
                      ThreadPool& pool);

void sum_partials_plain(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend);
void sum_partials_fast(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                       ThreadPool& pool);

}  // namespace switchyard::cpu
