// src/cpu/conv_prefill_states.h -- contract in ops/ops.h.
#pragma once

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

void conv_prefill_states(const ConvPrefillStates& step, Tensor status, ThreadPool& pool);

}  // namespace switchyard::cpu
