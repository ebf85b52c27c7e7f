// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/rows.h -- what operations on whole rows share.
#pragma once

#include <algorithm>

#include "base/status.h"
#include "cpu/run.h"
#include "plan/index.h"

namespace switchyard::cpu {

// Notes an id that is no expert and does not say so. The first that is noted stays.
inline void check_id(Tensor status, int64_t id, int64_t num_experts, int rank) {
  if (!is_valid_id(id, num_experts))
    note(*status.as<StatusWords>(), Errc::BadRouting, StatusDetail::IdOutOfRange, rank, id);
}

// Whether SumRows leaves row r as it is.
inline bool stays(const SumRows& op, int64_t r) {
  const RowRange& range = op.kept.range;
  if (r >= range.begin && r < range.begin + range.size) return true;
  const int64_t num_terms = op.sums.row_of_slot.dim(1);
  const int32_t* rows = op.sums.row_of_slot.as<int32_t>() + r * num_terms;
  return op.kept.empty &&
         std::all_of(rows, rows + num_terms, [](int32_t row) { return row == kNoRow; });
}
inline int64_t num_rows_of(const SumRows& op) {
  return op.num_rows.present() ? op.num_rows.as<int32_t>()[0] : op.dst.dim(0);
}

// Where `mine`, in this rank's memory, is in that of `rank`.
template <class T>
T* at_peer(const PeerBases& peers, int rank, T* mine) {
  const int64_t offset = reinterpret_cast<int64_t>(mine) - reinterpret_cast<int64_t>(peers.here);
  return reinterpret_cast<T*>(peers.bases.as<int64_t>()[rank] + offset);
}
inline const std::byte* row_of(const RowSource& src, int64_t r) {
  const auto* rows = src.rows.as<std::byte>();
  const int64_t row_bytes = src.rows.dim(1) * dtype_bytes(src.rows.dtype);
  if (!src.peers.present()) return rows + r * row_bytes;
  return at_peer(src.peers, static_cast<int>(r / src.block), rows) + r % src.block * row_bytes;
}

// Rows a task takes: enough that a task outweighs its start, few enough to level threads out.
inline constexpr int64_t kRowsPerTask = 8;

template <class F>
void for_each_row(int64_t num_rows, ThreadPool& pool, F&& f) {
  pool.parallel_for((num_rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    const int64_t end = std::min((task + 1) * kRowsPerTask, num_rows);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) f(r);
  });
}

// The plain form defines the meaning; the fast one gives the same bits.
void sum_rows_plain(const SumRows& op);
void sum_rows_fast(const SumRows& op, ThreadPool& pool);  // of rows that are here

}  // namespace switchyard::cpu
