// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/row_blocks.cu
#include "cuda/row_blocks.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

// Eight blocks on each of 132 multiprocessors; more rows are walked in strides.
constexpr int64_t kMaxRowBlocks = 1056;

struct Call {
  Tensor dst;
  ConstTensor src, own, send_rows, counts;
  int rank;
  int64_t block;
  int64_t most_rows;  // that there can be
};

template <class Vector>
RowBlocksParams<Vector> params_of(const Call& c, int64_t row_bytes) {
  const int64_t vectors = row_bytes / static_cast<int64_t>(sizeof(Vector));
  return {c.dst.as<Vector>(),
          c.src.as<Vector>(),
          c.own.present() ? c.own.as<Vector>() : nullptr,
          c.send_rows.present() ? c.send_rows.as<int32_t>() : nullptr,
          c.counts.as<int32_t>(),
          c.block,
          static_cast<int>(c.counts.dim(0)),
          c.rank,
          static_cast<int>(vectors),
          static_cast<int>(ceil_div(vectors, int64_t{kRowBlocksPiece}))};
}

template <class Vector>
void launch_rows(void (*kernel)(RowBlocksParams<Vector>), const Call& c, int64_t row_bytes,
                 cudaStream_t stream) {
  const auto params = params_of<Vector>(c, row_bytes);
  const int64_t blocks =
      ceil_div(c.most_rows * params.pieces_per_row, int64_t{kRowBlocksThreads / 32});
  launch(kernel, dim3(static_cast<unsigned>(std::min(blocks, kMaxRowBlocks))), kRowBlocksThreads,
         static_cast<size_t>(params.num_ranks + 1) * sizeof(int32_t), stream, params);
}

bool is_aligned(ConstTensor t) {
  return !t.present() || reinterpret_cast<uintptr_t>(t.data) % sizeof(uint4) == 0;
}

void move_rows(const char* op, bool pack, const Call& c, cudaStream_t stream) {
  const int64_t row_bytes = c.dst.dim(1) * dtype_bytes(c.dst.dtype);
  SWITCHYARD_REQUIRE(row_bytes % 4 == 0, Misaligned, op, ": row bytes=", row_bytes,
                     ", need a multiple of 4.");
  const bool wide = row_bytes % static_cast<int64_t>(sizeof(uint4)) == 0 && is_aligned(c.dst) &&
                    is_aligned(c.src) && is_aligned(c.own);
  if (wide)
    launch_rows<uint4>(pack ? pack_rows_kernel<uint4> : unpack_rows_kernel<uint4>, c, row_bytes,
                       stream);
  else
    launch_rows<uint32_t>(pack ? pack_rows_kernel<uint32_t> : unpack_rows_kernel<uint32_t>, c,
                          row_bytes, stream);
}

}  // namespace

template <>
void run(const PackRows& op, cudaStream_t stream) {
  move_rows("pack_rows", true,
            {op.dst, op.src, {}, op.send_rows, op.counts, op.rank, op.block, op.dst.dim(0)},
            stream);
}

template <>
void run(const UnpackRows& op, cudaStream_t stream) {
  move_rows("unpack_rows", false,
            {op.dst, op.blocks, op.own, {}, op.counts, op.rank, op.block, op.blocks.dim(0)},
            stream);
}

}  // namespace switchyard::cuda
