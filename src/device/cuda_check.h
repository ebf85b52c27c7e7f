// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/cuda_check.h -- every CUDA call and launch goes through here.
#pragma once

#include <cuda_runtime_api.h>

#include "base/require.h"

namespace switchyard::cuda {

// `what` is the call as written. The last error is cleared, so that the next check sees its own.
inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();
  throw Error(Errc::Cuda, cat("cuda: ", what, ", ", cudaGetErrorName(code), ", ",
                              cudaGetErrorString(code), ". Is the device healthy and free?"));
}

}  // namespace switchyard::cuda

#define SWITCHYARD_CUDA_CHECK(call) ::switchyard::cuda::check((call), #call)
