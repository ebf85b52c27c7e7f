// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/group_rows.cc -- one walk over the rows: a group grows as long as its expert goes on.
#include "cpu/run.h"

#include <algorithm>

#include "base/status.h"
#include "plan/index.h"

namespace switchyard::cpu {

template <>
void run(const GroupRows& op, const Context&) {
  const int64_t num_experts = op.groups.counts.count(), num_rows = op.row_expert.count();
  const auto* expert = op.row_expert.as<int32_t>();
  auto* counts = op.groups.counts.as<int32_t>();
  auto* first = op.groups.first_row.as<int64_t>();
  const auto clear = [&] {
    std::fill_n(counts, num_experts, 0);
    std::fill_n(first, num_experts, int64_t{0});
  };
  clear();
  first[num_experts] = num_rows;

  for (int64_t r = 0; r < num_rows; ++r) {
    const int32_t e = expert[r];
    if (e == kNoExpert) continue;
    if (is_expert(e, num_experts) && counts[e] == 0) first[e] = r;
    if (!is_expert(e, num_experts) || first[e] + counts[e] != r) {
      note(*op.status.as<StatusWords>(), Errc::BadRouting, StatusDetail::RowsNotGrouped, op.rank,
           r);
      return clear();
    }
    ++counts[e];
  }
}

}  // namespace switchyard::cpu
