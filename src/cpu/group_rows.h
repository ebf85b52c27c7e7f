// src/cpu/group_rows.h -- contract: ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace switchyard::cpu {

void group_rows(const RowGroups& groups, ConstTensor row_expert, int rank, Tensor status);

}  // namespace switchyard::cpu
