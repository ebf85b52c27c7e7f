// src/cpu/plan_dispatch.h -- contracts: ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace switchyard::cpu {

void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status);
void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                   int rank, Tensor status);
void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                  int64_t num_local, int64_t num_experts, int rank, Tensor status);

}  // namespace switchyard::cpu
