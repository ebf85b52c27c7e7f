// src/cpu/group_rows.cc -- one walk over the rows: a group grows as long as its expert goes on.
#include "cpu/group_rows.h"

#include <algorithm>

#include "base/status.h"
#include "plan/index.h"

namespace switchyard::cpu {

void group_rows(const RowGroups& groups, ConstTensor row_expert, int rank, Tensor status) {
  const int64_t num_experts = groups.counts.count(), num_rows = row_expert.count();
  const auto* expert = row_expert.as<int32_t>();
  auto* counts = groups.counts.as<int32_t>();
  auto* first = groups.first_row.as<int64_t>();
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
      note(*status.as<StatusWords>(), Errc::BadRouting, StatusDetail::RowsNotGrouped, rank, r);
      return clear();
    }
    ++counts[e];
  }
}

}  // namespace switchyard::cpu
