// src/cuda/sum_rows.cu
#include "cuda/sum_rows.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

// More rows are walked in strides: a capacity that is mostly unused costs few empty blocks.
constexpr int64_t kMaxBlocksOfRows = 4096;

void sum_rows(const char* op, Tensor dst, const SlotSums& sums, const Addend& addend,
              ConstTensor num_rows, const KeptRows& kept, cudaStream_t stream) {
  const int64_t capacity = sums.row_of_slot.dim(0), hidden = dst.dim(1);
  SWITCHYARD_REQUIRE(hidden % 8 == 0, Misaligned, op, ": H=", hidden,
                     ", need a multiple of 8 (rows are read as 16-byte vectors of bf16).");
  const SumRowsParams params{sums_out(dst, addend),
                             view_of(sums),
                             num_rows.present() ? num_rows.as<int32_t>() : nullptr,
                             static_cast<int>(capacity),
                             static_cast<int>(hidden / 8),
                             static_cast<int>(kept.range.begin),
                             static_cast<int>(kept.range.size),
                             kept.empty};
  const dim3 grid(static_cast<unsigned>(std::min(capacity - kept.range.size, kMaxBlocksOfRows)),
                  static_cast<unsigned>(ceil_div(hidden / 8, kSumThreads)));
  if (sums.rows.dtype == DType::F32)
    launch(sum_rows_kernel<F32Vector>, grid, kSumThreads, 0, stream, params);
  else
    launch(sum_rows_kernel<Bf16Vector>, grid, kSumThreads, 0, stream, params);
}

}  // namespace

template <>
void run(const GatherRows& op, cudaStream_t stream) {
  sum_rows("gather_rows", op.dst, op.sums, op.addend, op.num_rows, op.kept, stream);
}

template <>
void run(const SumPartials& op, cudaStream_t stream) {
  sum_rows("sum_partials", op.dst, {op.src, op.return_row, {}}, op.addend, {}, {}, stream);
}

}  // namespace switchyard::cuda
