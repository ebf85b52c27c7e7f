// src/cpu/small_ops.h -- operations of a few lines. Contracts: ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace switchyard::cpu {

void single_group(const RowGroups& groups, int64_t num_rows);
void sigmoid(Tensor dst, ConstTensor src);
void widen(Tensor dst, ConstTensor src);
void fill_i32(Tensor dst, int32_t value);
void copy(Tensor dst, ConstTensor src);
void poison(Tensor dst, ConstTensor status);

}  // namespace switchyard::cpu
