// src/cuda/scatter_rows.cu
#include "cuda/scatter_rows.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

// More rows are walked in strides: a capacity that is mostly unused costs few empty blocks.
constexpr int64_t kMaxBlocksOfRows = 4096;
// From here on rows alone fill the GPU, and a thread gets more of each.
constexpr int64_t kManyRows = 1024;

template <int kVectors, class Source>
void scatter_with(Tensor dst, const Source& src, ConstTensor row_of_slot, ConstTensor num_rows,
                  cudaStream_t stream) {
  const int64_t capacity = row_of_slot.dim(0), vectors = dst.dim(1) / 8;
  const dim3 grid(static_cast<unsigned>(std::min(capacity, kMaxBlocksOfRows)),
                  static_cast<unsigned>(ceil_div(vectors, kVectors * kScatterThreads)));
  launch(scatter_rows_kernel<kVectors, Source>, grid, kScatterThreads, 0, stream, dst.as<uint4>(),
         src, row_of_slot.as<int32_t>(), num_rows.as<int32_t>(), capacity, row_of_slot.dim(1),
         vectors);
}

template <class Source>
void scatter(const char* op, Tensor dst, const Source& src, ConstTensor row_of_slot,
             ConstTensor num_rows, cudaStream_t stream) {
  SWITCHYARD_REQUIRE(dst.dim(1) % 8 == 0, Misaligned, op, ": H=", dst.dim(1),
                     ", need a multiple of 8 (rows are copied as 16-byte vectors of bf16).");
  if (row_of_slot.dim(0) >= kManyRows)
    scatter_with<4>(dst, src, row_of_slot, num_rows, stream);
  else
    scatter_with<1>(dst, src, row_of_slot, num_rows, stream);
}

}  // namespace

template <>
void run(const ScatterRows& op, cudaStream_t stream) {
  scatter("scatter_rows", op.dst, RowsHere{op.src.as<uint4>()}, op.row_of_slot, op.num_rows,
          stream);
}

template <>
void run(const FetchRows& op, cudaStream_t stream) {
  scatter("fetch_rows", op.dst,
          RowsOfPeers{view_of(op.window), op.rows.as<uint4>(), static_cast<int>(op.block)},
          op.row_of_slot, op.num_rows, stream);
}

}  // namespace switchyard::cuda
