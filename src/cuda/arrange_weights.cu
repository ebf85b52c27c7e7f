// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/arrange_weights.cu
#include "cuda/arrange_weights.cuh"

#include <cuda_bf16.h>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

template <class From, class To>
void arrange(const ArrangeWeights& op, cudaStream_t stream) {
  ArrangeParams p{op.dst.dim(1), op.dst.dim(2), 0, 0, op.transposed, op.interleaved};
  p.row_blocks = ceil_div(p.num_rows, int64_t{kSquare});
  p.column_blocks = ceil_div(p.width, int64_t{kSquare});
  launch(arrange_weights_kernel<From, To>, op.dst.dim(0) * p.row_blocks * p.column_blocks,
         kSquare * kSquareWarps, 0, stream, op.dst.as<To>(), op.src.as<From>(), p);
}

}  // namespace

template <>
void run(const ArrangeWeights& op, cudaStream_t stream) {
  if (op.dst.dtype == DType::Bf16) return arrange<__nv_bfloat16, __nv_bfloat16>(op, stream);
  op.src.dtype == DType::Bf16 ? arrange<__nv_bfloat16, float>(op, stream)
                              : arrange<float, float>(op, stream);
}

}  // namespace switchyard::cuda
