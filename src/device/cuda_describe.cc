// src/device/cuda_describe.cc
#include <cuda_runtime_api.h>

#include "base/require.h"
#include "device/describe_cuda.h"

namespace switchyard {
namespace {

DeviceDescription unavailable(std::string reason) {
  DeviceDescription d;
  d.kind = DeviceKind::Cuda;
  d.name = "CUDA";
  d.available = false;
  d.unavailable_reason = std::move(reason);
  return d;
}

}  // namespace

DeviceDescription describe_cuda() {
  int count = 0, device = 0;
  cudaDeviceProp properties{};
  cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count == 0) return unavailable("this machine has no CUDA device");
  if (code == cudaSuccess) code = cudaGetDevice(&device);
  if (code == cudaSuccess) code = cudaGetDeviceProperties(&properties, device);
  if (code != cudaSuccess) {
    (void)cudaGetLastError();
    return unavailable(cat("CUDA says ", cudaGetErrorName(code), ", ", cudaGetErrorString(code)));
  }
  DeviceDescription d;
  d.kind = DeviceKind::Cuda;
  d.name = properties.name;
  d.compute_major = properties.major;
  d.compute_minor = properties.minor;
  d.num_devices = count;
  d.num_sms = properties.multiProcessorCount;
  d.memory_bytes = static_cast<double>(properties.totalGlobalMem);
  // The oldest code in the library is PTX for 8.0.
  if (properties.major < 8) {
    d.available = false;
    d.unavailable_reason = cat(properties.name, " has compute capability ", properties.major, ".",
                               properties.minor, ", the kernels need 8.0");
  }
  // measured: H100 80GB HBM3, reduction of 2 GiB, cuBLAS 8192^3, copy over 18 NVLinks, 2026-11-23.
  d.read_gbps = 3000;
  d.gemm_gflops = 780e3;
  d.link_gbps = 390;
  return d;
}

}  // namespace switchyard
