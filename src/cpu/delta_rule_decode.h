// src/cpu/delta_rule_decode.h -- contract in ops/ops.h.
#pragma once

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

void delta_rule_decode(const DeltaRuleDecode& step, Tensor status, ThreadPool& pool);

}  // namespace switchyard::cpu
