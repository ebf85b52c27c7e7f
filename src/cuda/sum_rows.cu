// src/cuda/sum_rows.cu
#include "cuda/sum_rows.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/ops.h"

namespace switchyard::cuda {
namespace {

// More rows are walked in strides: a capacity that is mostly unused costs few empty blocks.
constexpr int64_t kMaxBlocksOfRows = 4096;

void sum_rows(const char* op, Tensor dst, ConstTensor src, ConstTensor rows, ConstTensor weights,
              const Addend& addend, ConstTensor num_rows, EmptyRows empty, cudaStream_t stream) {
  const int64_t capacity = rows.dim(0), hidden = dst.dim(1);
  SWITCHYARD_REQUIRE(hidden % 8 == 0, Misaligned, op, ": H=", hidden,
                     ", need a multiple of 8 (rows are read as 16-byte vectors of bf16).");
  const SumRowsParams params{dst.as<uint4>(),
                             src.as<uint4>(),
                             rows.as<int32_t>(),
                             weights.present() ? weights.as<float>() : nullptr,
                             addend.rows.present() ? addend.rows.as<float4>() : nullptr,
                             addend.scale.present() ? addend.scale.as<float>() : nullptr,
                             num_rows.present() ? num_rows.as<int32_t>() : nullptr,
                             static_cast<int>(capacity),
                             static_cast<int>(rows.dim(1)),
                             static_cast<int>(hidden / 8),
                             empty};
  const dim3 grid(static_cast<unsigned>(std::min(capacity, kMaxBlocksOfRows)),
                  static_cast<unsigned>(ceil_div(hidden / 8, kSumThreads)));
  launch(sum_rows_kernel, grid, kSumThreads, 0, stream, params);
}

}  // namespace

void gather_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor weights,
                 const Addend& addend, ConstTensor num_rows, EmptyRows empty, cudaStream_t stream) {
  sum_rows("gather_rows", dst, src, row_of_slot, weights, addend, num_rows, empty, stream);
}

void sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                  cudaStream_t stream) {
  sum_rows("sum_partials", dst, src, return_row, {}, addend, {}, EmptyRows::Zero, stream);
}

}  // namespace switchyard::cuda
