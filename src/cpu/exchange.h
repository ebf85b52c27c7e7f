// src/cpu/exchange.h -- what ranks tell each other before and after rows move. Contracts:
// ops/ops.h.
#pragma once

#include "switchyard/tensor.h"

namespace switchyard::cpu {

void merge_status(Tensor status, ConstTensor headers);
void block_rows(Tensor dst, int64_t stride);
void check_headers(Tensor status, ConstTensor headers, int tp_size);
void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers, int rank,
                 ConstTensor status);
void note_ended(Tensor status, const int32_t* ended, int rank);

}  // namespace switchyard::cpu
