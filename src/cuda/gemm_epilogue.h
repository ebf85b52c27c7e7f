// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/gemm_epilogue.h -- see gemm_epilogue.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/ops.h"

namespace switchyard::cuda {

// gemm.dst from the fp32 sums of its rows, [C, N]: router weight, bias, activation, rounding. Rows
// past counts are neither read nor written. sums may be gemm.dst where that is f32 and not gated.
void gemm_epilogue(const GroupedGemm& gemm, ConstTensor sums, cudaStream_t stream);

}  // namespace switchyard::cuda
