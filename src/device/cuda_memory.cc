// src/device/cuda_memory.cc
#include "device/cuda_memory.h"

#include <algorithm>
#include <cstring>

#include "device/cuda_check.h"

namespace switchyard {
namespace {

// Two halves: one is filled by the host while the other travels.
constexpr size_t kHalfBytes = size_t{16} << 20;

std::shared_ptr<void> allocate_pinned(size_t bytes) {
  void* address = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaMallocHost(&address, bytes));
  return {address, [](void* p) { (void)cudaFreeHost(p); }};
}

}  // namespace

std::shared_ptr<void> CudaMemory::allocate(size_t bytes) {
  void* address = nullptr;
  const cudaError_t code = cudaMalloc(&address, std::max<size_t>(bytes, 1));
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(Errc::Unsupported,
                cat("allocate: bytes=", bytes, ", this GPU has no such memory free. Use a smaller ",
                    "max_tokens or more ranks."));
  }
  SWITCHYARD_CUDA_CHECK(code);
  return {address, [](void* p) { (void)cudaFree(p); }};
}

void CudaMemory::read_back(void* dst, ConstTensor src, CUstream_st* stream) {
  if (src.bytes() > 0)
    SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(dst, src.data, static_cast<size_t>(src.bytes()),
                                          cudaMemcpyDeviceToHost, stream));
  SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
}

void CudaMemory::copy_in(Tensor dst, const void* src, CUstream_st* stream) {
  if (!staging_) staging_ = allocate_pinned(2 * kHalfBytes);
  const auto bytes = static_cast<size_t>(dst.bytes());
  const auto* from = static_cast<const std::byte*>(src);
  auto* half = static_cast<std::byte*>(staging_.get());
  for (size_t done = 0, n = 0; done < bytes; done += kHalfBytes, ++n) {
    if (n % 2 == 0) SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
    const size_t size = std::min(kHalfBytes, bytes - done);
    std::byte* stage = half + n % 2 * kHalfBytes;
    std::memcpy(stage, from + done, size);
    SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(static_cast<std::byte*>(dst.data) + done, stage, size,
                                          cudaMemcpyHostToDevice, stream));
  }
  SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
}

}  // namespace switchyard
