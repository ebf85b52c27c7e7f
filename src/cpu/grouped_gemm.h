// src/cpu/grouped_gemm.h -- contract: GroupedGemm in ops/ops.h.
#pragma once

#include "cpu/run.h"

namespace switchyard::cpu {

void grouped_gemm_plain(const GroupedGemm& gemm);
void grouped_gemm_fast(const GroupedGemm& gemm, ThreadPool& pool);

}  // namespace switchyard::cpu
