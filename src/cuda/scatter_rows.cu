// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
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

int64_t row_bytes_of(const ScatterRows& op) {
  return op.dst.dim(1) * dtype_bytes(op.dst.dtype);
}

template <int kVectors, class Source>
void scatter_with(const ScatterRows& op, const Source& src, cudaStream_t stream) {
  using Vector = typename Source::Vector;
  const int64_t capacity = op.row_of_slot.dim(0),
                vectors = row_bytes_of(op) / static_cast<int64_t>(sizeof(Vector));
  const dim3 grid(static_cast<unsigned>(std::min(capacity, kMaxBlocksOfRows)),
                  static_cast<unsigned>(ceil_div(vectors, kVectors * kScatterThreads)));
  launch(scatter_rows_kernel<kVectors, Source>, grid, kScatterThreads, 0, stream,
         op.dst.as<Vector>(), src, op.row_of_slot.as<int32_t>(),
         op.num_rows.present() ? op.num_rows.as<int32_t>() : nullptr, capacity,
         op.row_of_slot.dim(1), vectors);
}

template <class Source>
void scatter(const ScatterRows& op, const Source& src, cudaStream_t stream) {
  op.row_of_slot.dim(0) >= kManyRows ? scatter_with<4>(op, src, stream)
                                     : scatter_with<1>(op, src, stream);
}

template <class Vector>
void scatter_as(const ScatterRows& op, cudaStream_t stream) {
  const auto* rows = op.src.rows.as<Vector>();
  if (op.src.peers.present())
    scatter(op, RowsOfPeers<Vector>{view_of(op.src.peers), rows, static_cast<int>(op.src.block)},
            stream);
  else
    scatter(op, RowsHere<Vector>{rows}, stream);
}

}  // namespace

template <>
void run(const ScatterRows& op, cudaStream_t stream) {
  const int64_t row_bytes = row_bytes_of(op);
  SWITCHYARD_REQUIRE(row_bytes % 4 == 0, Misaligned, "scatter_rows: row bytes=", row_bytes,
                     ", need a multiple of 4.");
  row_bytes % static_cast<int64_t>(sizeof(uint4)) == 0 ? scatter_as<uint4>(op, stream)
                                                       : scatter_as<uint32_t>(op, stream);
}

}  // namespace switchyard::cuda
