// src/cuda/small_ops.cu
#include "cuda/small_ops.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/ops.h"

namespace switchyard::cuda {
namespace {

// Blocks for `count` elements of one thread each.
int64_t blocks_for(int64_t count) {
  return std::min(ceil_div(count, kSmallThreads), kSmallMaxBlocks);
}

}  // namespace

void single_group(const RowGroups& groups, int64_t num_rows, cudaStream_t stream) {
  launch(single_group_kernel, 1, 32, 0, stream, groups.counts.as<int32_t>(),
         groups.first_row.as<int64_t>(), num_rows);
}

void sigmoid(Tensor dst, ConstTensor src, cudaStream_t stream) {
  launch(sigmoid_kernel, blocks_for(src.count()), kSmallThreads, 0, stream, dst.as<float>(),
         src.as<float>(), src.count());
}

void fill_i32(Tensor dst, int32_t value, cudaStream_t stream) {
  launch(fill_i32_kernel, blocks_for(dst.count()), kSmallThreads, 0, stream, dst.as<int32_t>(),
         value, dst.count());
}

void copy(Tensor dst, ConstTensor src, cudaStream_t stream) {
  if (src.bytes() == 0 || dst.data == src.data) return;
  SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(dst.data, src.data, static_cast<size_t>(src.bytes()),
                                        cudaMemcpyDeviceToDevice, stream));
}

void poison(Tensor dst, ConstTensor status, cudaStream_t stream) {
  const int64_t count = dst.bytes() / 2;  // two NaN of bf16 are one of f32
  launch(poison_kernel, blocks_for(ceil_div(count, int64_t{8})), kSmallThreads, 0, stream,
         dst.as<uint16_t>(), status.as<int32_t>(), count);
}

}  // namespace switchyard::cuda
