// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/small_ops.cu
#include "cuda/small_ops.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

// Blocks for `count` elements of one thread each.
int64_t blocks_for(int64_t count) {
  return std::min(ceil_div(count, kSmallThreads), kSmallMaxBlocks);
}

}  // namespace

template <>
void run(const SingleGroup& op, cudaStream_t stream) {
  launch(single_group_kernel, 1, 32, 0, stream, op.groups.counts.as<int32_t>(),
         op.groups.first_row.as<int64_t>(), op.num_rows);
}

template <>
void run(const Sigmoid& op, cudaStream_t stream) {
  launch(sigmoid_kernel, blocks_for(op.src.count()), kSmallThreads, 0, stream, op.dst.as<float>(),
         op.src.as<float>(), op.src.count());
}

template <>
void run(const FillI32& op, cudaStream_t stream) {
  launch(fill_i32_kernel, blocks_for(op.dst.count()), kSmallThreads, 0, stream,
         op.dst.as<int32_t>(), op.value, op.dst.count());
}

template <>
void run(const WriteI32& op, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  SWITCHYARD_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  SWITCHYARD_REQUIRE(status == cudaStreamCaptureStatusNone, Unsupported,
                     "write_i32: the stream is captured, words=", op.dst.count(),
                     ", a replay would write them again. Call this outside of the capture.");
  const int64_t count = op.dst.count();
  for (int64_t done = 0; done < count; done += WordsOfLaunch::kMost) {
    const int64_t size = std::min<int64_t>(WordsOfLaunch::kMost, count - done);
    WordsOfLaunch words;
    std::copy_n(op.src + done, size, words.words);
    launch(write_i32_kernel, 1, kSmallThreads, 0, stream, op.dst.as<int32_t>() + done, words,
           static_cast<int>(size));
  }
}

template <>
void run(const Copy& op, cudaStream_t stream) {
  if (op.src.bytes() == 0 || op.dst.data == op.src.data) return;
  SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(op.dst.data, op.src.data,
                                        static_cast<size_t>(op.src.bytes()),
                                        cudaMemcpyDeviceToDevice, stream));
}

template <>
void run(const CopyRows& op, cudaStream_t stream) {
  if (op.src.bytes() == 0) return;
  const auto bytes = [&](int64_t elements) {
    return static_cast<size_t>(elements * dtype_bytes(op.src.dtype));
  };
  SWITCHYARD_CUDA_CHECK(cudaMemcpy2DAsync(
      op.dst.data, bytes(op.dst_stride), op.src.data, bytes(op.src_stride), bytes(op.src.dim(1)),
      static_cast<size_t>(op.src.dim(0)), cudaMemcpyDeviceToDevice, stream));
}

template <>
void run(const Poison& op, cudaStream_t stream) {
  const int64_t count = op.dst.bytes() / 2;  // two NaN of bf16 are one of f32
  launch(poison_kernel, blocks_for(ceil_div(count, int64_t{8})), kSmallThreads, 0, stream,
         op.dst.as<uint16_t>(), op.status.as<int32_t>(), count);
}

}  // namespace switchyard::cuda
