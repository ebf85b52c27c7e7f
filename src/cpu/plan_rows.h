// src/cpu/plan_rows.h -- contract: ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace switchyard::cpu {

void plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank, Tensor status);

}  // namespace switchyard::cpu
