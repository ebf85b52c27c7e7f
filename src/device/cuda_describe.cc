// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/cuda_describe.cc
#include <cuda_runtime_api.h>

#include "base/require.h"
#include "device/cuda_check.h"
#include "device/cuda_device.h"

namespace switchyard {

DeviceDescription describe_cuda() {
  int count = 0, device = 0;
  cudaDeviceProp properties{};
  cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count == 0) return no_cuda_device("this machine has no CUDA device");
  if (code == cudaSuccess) code = cudaGetDevice(&device);
  if (code == cudaSuccess) code = cudaGetDeviceProperties(&properties, device);
  if (code != cudaSuccess) {
    (void)cudaGetLastError();
    return no_cuda_device(
        cat("CUDA says ", cudaGetErrorName(code), ", ", cudaGetErrorString(code)));
  }
  DeviceDescription d = some_cuda_device();
  d.name = properties.name;
  d.compute_major = properties.major;
  d.compute_minor = properties.minor;
  d.has_cublas = has_cublas();
  d.num_devices = count;
  d.num_sms = properties.multiProcessorCount;
  d.memory_bytes = static_cast<double>(properties.totalGlobalMem);
  // The oldest code in the library is PTX for 8.0.
  if (properties.major < 8) {
    d.available = false;
    d.unavailable_reason = cat(properties.name, " has compute capability ", properties.major, ".",
                               properties.minor, ", the kernels need 8.0");
  }
  return d;
}

int current_cuda_device() {
  int device = 0;
  SWITCHYARD_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

}  // namespace switchyard
