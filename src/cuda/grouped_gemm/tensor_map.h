// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/tensor_map.h -- what the copy engine needs to know about a matrix.
#pragma once

#include <cuda.h>

#include "switchyard/tensor.h"

namespace switchyard::cuda {

// Rows of src [C, k] or dst [C, width], bf16 or fp8: boxes of `box_rows` x `box_cols`, of 128 or 64
// bytes each.
CUtensorMap map_of_rows(ConstTensor rows, int box_rows, int box_cols);
// weights [E, n, k]: boxes of `box_rows` x 128 bytes within one expert.
CUtensorMap map_of_weights(ConstTensor weights, int box_rows);
// The same of a gated W1 whose halves alternate in eights within a box: (k, 8, 2, n / 16, E).
CUtensorMap map_of_halves(ConstTensor weights, int box_rows);

}  // namespace switchyard::cuda
