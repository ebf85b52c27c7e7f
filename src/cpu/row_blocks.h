// src/cpu/row_blocks.h -- rows on their way between ranks that do not share memory. Contracts:
// ops/ops.h.
#pragma once

#include "switchyard/tensor.h"

namespace switchyard::cpu {

void pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts, int rank,
               int64_t block);
void unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts, int rank,
                 int64_t block);

}  // namespace switchyard::cpu
