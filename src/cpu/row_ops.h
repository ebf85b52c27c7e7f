// src/cpu/row_ops.h -- operations that move or add whole rows. Contracts: ops/ops.h. The plain
// forms define the meaning; the fast ones give the same bits.
#pragma once

#include <algorithm>

#include "cpu/run.h"

namespace switchyard::cpu {

// Whether gather_rows leaves row r of these places as it is.
inline bool stays(const int32_t* places, int64_t r, int64_t top_k, const KeptRows& kept) {
  if (r >= kept.range.begin && r < kept.range.begin + kept.range.size) return true;
  return kept.empty &&
         std::all_of(places, places + top_k, [](int32_t row) { return row == kNoRow; });
}

// Element h of row r.
float sum_of(const SlotSums& sums, int64_t r, int64_t h);

void scatter_rows_plain(const ScatterRows& op);
void scatter_rows_fast(const ScatterRows& op, ThreadPool& pool);

void gather_rows_plain(const GatherRows& op);
void gather_rows_fast(const GatherRows& op, ThreadPool& pool);

void sum_partials_plain(const SumPartials& op);
void sum_partials_fast(const SumPartials& op, ThreadPool& pool);

}  // namespace switchyard::cpu
