// src/cpu/row_ops.h -- operations that move or add whole rows. Contracts: ops/ops.h. The plain
// forms define the meaning; the fast ones give the same bits.
#pragma once

#include <algorithm>

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

// Whether gather_rows leaves row r of these places as it is.
inline bool stays(const int32_t* places, int64_t r, int64_t top_k, const KeptRows& kept) {
  if (r >= kept.range.begin && r < kept.range.begin + kept.range.size) return true;
  return kept.empty &&
         std::all_of(places, places + top_k, [](int32_t row) { return row == kNoRow; });
}

// Element h of row r.
float sum_of(const SlotSums& sums, int64_t r, int64_t h);

void scatter_rows_plain(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows);
void scatter_rows_fast(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows,
                       ThreadPool& pool);

void gather_rows_plain(Tensor dst, const SlotSums& sums, const Addend& addend, ConstTensor num_rows,
                       const KeptRows& kept);
void gather_rows_fast(Tensor dst, const SlotSums& sums, const Addend& addend, ConstTensor num_rows,
                      const KeptRows& kept, ThreadPool& pool);

void sum_partials_plain(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend);
void sum_partials_fast(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                       ThreadPool& pool);

}  // namespace switchyard::cpu
