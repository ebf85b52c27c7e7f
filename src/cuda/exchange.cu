// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/exchange.cu
#include "cuda/exchange.cuh"

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {

template <>
void run(const MergeStatus& op, cudaStream_t stream) {
  launch(merge_status_kernel, 1, 32, 0, stream, op.status.as<int32_t>(), op.headers.as<int32_t>(),
         op.headers.dim(0), op.headers.dim(1));
}

template <>
void run(const BlockRows& op, cudaStream_t stream) {
  launch(block_rows_kernel, ceil_div(op.dst.count(), int64_t{kExchangeThreads}), kExchangeThreads,
         0, stream, op.dst.as<int32_t>(), op.stride, op.dst.dim(1), op.dst.count());
}

template <>
void run(const CheckHeaders& op, cudaStream_t stream) {
  launch(check_headers_kernel, 1, 32, 0, stream, op.status.as<int32_t>(), op.headers.as<int32_t>(),
         op.headers.dim(0), op.headers.dim(1), op.tp_size);
}

template <>
void run(const ReadCounts& op, cudaStream_t stream) {
  const ReadCountsParams params{op.counts.as<int32_t>(),
                                op.counts_back.as<int32_t>(),
                                op.num_rows.as<int32_t>(),
                                op.headers.as<int32_t>(),
                                op.status.as<int32_t>(),
                                static_cast<int>(op.counts.dim(0)),
                                static_cast<int>(op.headers.dim(1)),
                                op.rank};
  launch(read_counts_kernel, 1, kExchangeThreads, 0, stream, params);
}

template <>
void run(const NoteEnded& op, cudaStream_t stream) {
  launch(note_ended_kernel, 1, 32, 0, stream, op.status.as<int32_t>(), op.ended, op.rank);
}

}  // namespace switchyard::cuda
