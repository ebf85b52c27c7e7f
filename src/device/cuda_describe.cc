// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/cuda_describe.cc
#include <cuda_runtime_api.h>

#include "base/require.h"
#include "device/cuda_check.h"
#include "device/cuda_device.h"

namespace switchyard {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, name, device) == cudaSuccess) return value;
  (void)cudaGetLastError();
  return 0;
}

// What a plain read of 2 GiB was seen to reach of the memory's nominal rate: 3040 of 3352 GB/s on an
// H100, 4510 of 4917 on an H200. 0: the driver does not say.
double read_gbps_of(int device) {
  constexpr double kReached = 0.91;
  const double clock_khz = attribute(cudaDevAttrMemoryClockRate, device);
  const double bits = attribute(cudaDevAttrGlobalMemoryBusWidth, device);
  return kReached * 2 * clock_khz * 1e3 * bits / 8 * 1e-9;  // two transfers a clock
}

}  // namespace

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
  d.has_cublas = has_cublas;
  d.num_devices = count;
  d.num_sms = properties.multiProcessorCount;
  d.memory_bytes = static_cast<double>(properties.totalGlobalMem);
  if (const double gbps = read_gbps_of(device); gbps > 0) d.read_gbps = gbps;
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
