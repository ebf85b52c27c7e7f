// src/cpu/plan_dispatch.cc -- from expert ids to ranks, and from global ids to local ones.
#include "cpu/plan_dispatch.h"

#include <algorithm>
#include <climits>

#include "base/status.h"
#include "plan/index.h"

namespace switchyard::cpu {
namespace {

void note_bad_id(Tensor status, int64_t id, int rank) {
  note(*status.as<StatusWords>(), Errc::BadRouting, StatusDetail::IdOutOfRange, rank, id);
}

bool has_expert_on(const int32_t* ids, int64_t top_k, int64_t num_experts, int64_t experts_per_rank,
                   int64_t rank) {
  return std::any_of(ids, ids + top_k, [&](int32_t id) {
    return is_expert(id, num_experts) && owner_of(id, experts_per_rank) == rank;
  });
}

}  // namespace

void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status) {
  auto* to = dst.as<int32_t>();
  for (int64_t i = 0; i < src.count(); ++i) {
    const int64_t id = src.dtype == DType::I32 ? src.as<int32_t>()[i] : src.as<int64_t>()[i];
    if (!is_valid_id(id, num_experts)) note_bad_id(status, id, rank);
    to[i] = id < INT32_MIN || id > INT32_MAX ? INT32_MIN : static_cast<int32_t>(id);
  }
}

void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                   int rank, Tensor status) {
  const int64_t num_tokens = ids.dim(0), top_k = ids.dim(1),
                experts_per_rank = experts_of_rank(num_experts, num_ranks);
  const auto* id = ids.as<int32_t>();
  auto* send_rows = plan.send_rows.as<int32_t>();
  auto* send_counts = plan.send_counts.as<int32_t>();
  auto* return_row = plan.return_row.as<int32_t>();
  std::fill_n(send_counts, num_ranks, 0);
  std::fill_n(return_row, plan.return_row.count(), kNoRow);

  for (int64_t s = 0; s < ids.count(); ++s)
    if (!is_valid_id(id[s], num_experts)) note_bad_id(status, id[s], rank);
  if (!status.as<StatusWords>()->good()) return;

  int32_t sent = 0;
  for (int32_t p = 0; p < num_ranks; ++p)
    for (int64_t t = 0; t < num_tokens; ++t) {
      if (!has_expert_on(id + t * top_k, top_k, num_experts, experts_per_rank, p)) continue;
      return_row[t * num_ranks + p] = sent;
      send_rows[sent++] = static_cast<int32_t>(t);
      ++send_counts[p];
    }
}

void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                  int64_t num_local, int64_t num_experts, int rank, Tensor status) {
  const int64_t rows = num_rows.present() ? num_rows.as<int32_t>()[0] : src.dim(0);
  const auto* from = src.as<int32_t>();
  auto* to = dst.as<int32_t>();
  for (int64_t i = 0; i < rows * src.dim(1); ++i) {
    if (!is_valid_id(from[i], num_experts)) note_bad_id(status, from[i], rank);
    const int64_t local = from[i] - first;
    to[i] = local >= 0 && local < num_local ? static_cast<int32_t>(local) : kNoExpert;
  }
}

}  // namespace switchyard::cpu
