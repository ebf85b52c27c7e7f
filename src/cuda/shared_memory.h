// src/cuda/shared_memory.h -- dynamic shared memory beyond what every kernel may have.
#pragma once

#include <cuda_runtime.h>

#include "device/cuda_check.h"

namespace switchyard::cuda {

// A block has 48 KiB without asking, of which 8 are left to what a kernel declares itself.
inline constexpr size_t kDefaultSmemBytes = 40 * 1024;

// Before each launch that needs it: the permission belongs to the current device, and it is cheap.
template <class... Params>
void allow_smem(void (*kernel)(Params...), size_t bytes) {
  if (bytes <= kDefaultSmemBytes) return;
  SWITCHYARD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(bytes)));
}

}  // namespace switchyard::cuda
