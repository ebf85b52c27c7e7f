// src/cuda/path_ops.cu
#include "cuda/path_ops.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/ops.h"

namespace switchyard::cuda {
namespace {

// Longer tensors are walked in strides: enough blocks to fill any GPU.
constexpr int64_t kMaxBlocks = 2048;

int64_t blocks_for(int64_t count) {
  return std::min(ceil_div(count, kPathThreads), kMaxBlocks);
}

}  // namespace

void split_f32(Tensor dst, ConstTensor src, cudaStream_t stream) {
  launch(split_f32_kernel, blocks_for(src.count()), kPathThreads, 0, stream,
         dst.as<__nv_bfloat16>(), src.as<float>(), src.count());
}

void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids, ConstTensor weights,
                        int64_t num_experts, int64_t num_ids, cudaStream_t stream) {
  launch(split_zero_experts_kernel, blocks_for(ids.dim(0)), kPathThreads, 0, stream,
         dst_ids.as<int32_t>(), identity.as<float>(), ids.as<int32_t>(), weights.as<float>(),
         ids.dim(0), static_cast<int>(ids.dim(1)), num_experts, num_ids);
}

void norm_rows(const NormRows& norm, cudaStream_t stream) {
  const NormParams params{.dst = norm.dst.present() ? norm.dst.as<__nv_bfloat16>() : nullptr,
                          .inverse = norm.inverse.present() ? norm.inverse.as<float>() : nullptr,
                          .src = numbers_of(norm.src),
                          .weight = norm.weight.present() ? norm.weight.as<float>() : nullptr,
                          .width = norm.src.dim(1),
                          .epsilon = norm.epsilon};
  launch(norm_rows_kernel, norm.src.dim(0), kPathThreads, 0, stream, params);
}

void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights, cudaStream_t stream) {
  launch(weigh_shared_kernel, dst.dim(0), kPathThreads, 0, stream, dst.as<float>(), src.as<float>(),
         weights.as<float>(), static_cast<int>(weights.dim(1)), dst.dim(1));
}

void add_rows(Tensor dst, ConstTensor src, const Addend& addend, cudaStream_t stream) {
  launch(add_rows_kernel, dst.dim(0), kPathThreads, 0, stream, dst.as<__nv_bfloat16>(),
         src.as<float>(), addend.rows.present() ? addend.rows.as<float>() : nullptr,
         addend.scale.present() ? addend.scale.as<float>() : nullptr, dst.dim(1));
}

void widen(Tensor dst, ConstTensor src, cudaStream_t stream) {
  launch(widen_kernel, blocks_for(src.count()), kPathThreads, 0, stream, dst.as<float>(),
         src.as<__nv_bfloat16>(), src.count());
}

}  // namespace switchyard::cuda
