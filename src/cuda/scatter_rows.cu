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

template <int kVectors, class Source>
void scatter_with(const ScatterRows& op, const Source& src, cudaStream_t stream) {
  const int64_t capacity = op.row_of_slot.dim(0), vectors = op.dst.dim(1) / 8;
  const dim3 grid(static_cast<unsigned>(std::min(capacity, kMaxBlocksOfRows)),
                  static_cast<unsigned>(ceil_div(vectors, kVectors * kScatterThreads)));
  launch(scatter_rows_kernel<kVectors, Source>, grid, kScatterThreads, 0, stream,
         op.dst.as<uint4>(), src, op.row_of_slot.as<int32_t>(),
         op.num_rows.present() ? op.num_rows.as<int32_t>() : nullptr, capacity,
         op.row_of_slot.dim(1), vectors);
}

template <class Source>
void scatter(const ScatterRows& op, const Source& src, cudaStream_t stream) {
  op.row_of_slot.dim(0) >= kManyRows ? scatter_with<4>(op, src, stream)
                                     : scatter_with<1>(op, src, stream);
}

}  // namespace

template <>
void run(const ScatterRows& op, cudaStream_t stream) {
  SWITCHYARD_REQUIRE(op.dst.dim(1) % 8 == 0, Misaligned, "scatter_rows: H=", op.dst.dim(1),
                     ", need a multiple of 8 (rows are copied as 16-byte vectors of bf16).");
  const auto* rows = op.src.rows.as<uint4>();
  if (op.src.peers.present())
    scatter(op, RowsOfPeers{view_of(op.src.peers), rows, static_cast<int>(op.src.block)}, stream);
  else
    scatter(op, RowsHere{rows}, stream);
}

}  // namespace switchyard::cuda
