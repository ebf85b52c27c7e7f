// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/path_ops.cu
#include "cuda/path_ops.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

// Longer tensors are walked in strides: enough blocks to fill any GPU.
constexpr int64_t kMaxBlocks = 2048;

int64_t blocks_for(int64_t count) {
  return std::min(ceil_div(count, kPathThreads), kMaxBlocks);
}

}  // namespace

template <>
void run(const SplitF32& op, cudaStream_t stream) {
  launch(split_f32_kernel, blocks_for(op.src.count()), kPathThreads, 0, stream,
         op.dst.as<__nv_bfloat16>(), op.src.as<float>(), op.src.count());
}

template <>
void run(const SplitZeroExperts& op, cudaStream_t stream) {
  launch(split_zero_experts_kernel, blocks_for(op.ids.dim(0)), kPathThreads, 0, stream,
         op.dst_ids.as<int32_t>(), op.identity.as<float>(), op.ids.as<int32_t>(),
         op.weights.as<float>(), op.ids.dim(0), static_cast<int>(op.ids.dim(1)), op.num_experts,
         op.num_ids, SlotsView(op.slots));
}

template <>
void run(const NormRows& op, cudaStream_t stream) {
  const NormParams params{.dst = op.dst.present() ? op.dst.as<__nv_bfloat16>() : nullptr,
                          .inverse = op.inverse.present() ? op.inverse.as<float>() : nullptr,
                          .src = numbers_of(op.src),
                          .weight = op.weight.present() ? op.weight.as<float>() : nullptr,
                          .width = op.src.dim(1),
                          .epsilon = op.epsilon};
  launch(norm_rows_kernel, op.src.dim(0), kPathThreads, 0, stream, params);
}

template <>
void run(const WeighShared& op, cudaStream_t stream) {
  launch(weigh_shared_kernel, op.dst.dim(0), kPathThreads, 0, stream, op.dst.as<float>(),
         op.src.as<float>(), op.weights.as<float>(), static_cast<int>(op.weights.dim(1)),
         op.dst.dim(1));
}

template <>
void run(const AddRows& op, cudaStream_t stream) {
  launch(add_rows_kernel, op.dst.dim(0), kPathThreads, 0, stream, op.dst.as<__nv_bfloat16>(),
         op.src.as<float>(), op.addend.rows.present() ? op.addend.rows.as<float>() : nullptr,
         op.addend.scale.present() ? op.addend.scale.as<float>() : nullptr, op.dst.dim(1));
}

template <>
void run(const Widen& op, cudaStream_t stream) {
  launch(widen_kernel, blocks_for(op.src.count()), kPathThreads, 0, stream, op.dst.as<float>(),
         op.src.as<__nv_bfloat16>(), op.src.count());
}

}  // namespace switchyard::cuda
