// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/shared_memory.h -- dynamic shared memory beyond what every kernel may have.
#pragma once

#include <cuda_runtime.h>

#include "device/cuda_check.h"

namespace switchyard::cuda {

// A block has 48 KiB without asking, of which 8 are left to what a kernel declares itself.
inline constexpr size_t kDefaultSmemBytes = 40 * 1024;

// Before each launch that needs it: the permission belongs to the current device, and it is cheap.
// Always as much as there is, so that threads that launch one kernel with different sizes do not
// take from each other.
template <class... Params>
void allow_smem(void (*kernel)(Params...), size_t bytes) {
  if (bytes <= kDefaultSmemBytes) return;
  cudaFuncAttributes attributes{};
  SWITCHYARD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  if (static_cast<size_t>(attributes.maxDynamicSharedSizeBytes) >= bytes) return;
  int device = 0, most = 0;
  SWITCHYARD_CUDA_CHECK(cudaGetDevice(&device));
  SWITCHYARD_CUDA_CHECK(
      cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  SWITCHYARD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             most - static_cast<int>(attributes.sharedSizeBytes)));
}

}  // namespace switchyard::cuda
