// src/cpu/conv_decode.h -- contract in ops/ops.h.
#pragma once

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

void conv_decode(const ConvDecode& step, Tensor status, ThreadPool& pool);

}  // namespace switchyard::cpu
