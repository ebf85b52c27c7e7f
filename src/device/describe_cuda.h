// src/device/describe_cuda.h -- the current CUDA device; a build without CUDA has its own form.
#pragma once

#include <string>
#include <utility>

#include "switchyard/backend.h"

namespace switchyard {

// Never throws: what cannot be had is `available = false` with its reason.
DeviceDescription describe_cuda();

// A CUDA device of which only the kind is known. What is predicted for it is predicted for an H100.
// measured: H100 80GB HBM3, reduction of 2 GiB, cuBLAS 8192^3, copy over 18 NVLinks, 2026-11-23.
inline DeviceDescription some_cuda_device() {
  DeviceDescription d;
  d.kind = DeviceKind::Cuda;
  d.name = "CUDA";
  d.read_gbps = 3000;
  d.gemm_gflops = 780e3;
  d.link_gbps = 390;
  return d;
}

inline DeviceDescription no_cuda_device(std::string reason) {
  DeviceDescription d = some_cuda_device();
  d.available = false;
  d.unavailable_reason = std::move(reason);
  return d;
}

}  // namespace switchyard
