// src/cpu/gate_topk.h -- contract: ops/ops.h; the rule: GateConfig.
#pragma once

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

void gate_topk(const GateTopk& gate, ThreadPool& pool);

}  // namespace switchyard::cpu
