// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/cuda_device.h -- what is asked of a CUDA device beside its memory and operations; a
// build without CUDA has its own form.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "switchyard/backend.h"
#include "switchyard/measure.h"

namespace switchyard {

// The current device. Never throws: what cannot be had is `available = false` with its reason.
DeviceDescription describe_cuda();

// Whether cuBLAS can be opened here: in src/cuda/cublas_library.cc. The first call looks for it.
bool has_cublas();

// The number of the calling thread's; 0 in a build without CUDA.
int current_cuda_device();

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

DeviceRates measure_cuda_device(Backend& backend);
double measure_cuda_link(Backend& from, Backend& to, int64_t bytes);

// Values of base/random.h on the device: slice g of the outermost dimension holds the sequence of
// expert `first_expert` + g; all of it that of expert -1 when first_expert is -1. Within `range` of
// `middle`. bf16, f32 or f8_e4m3.
void fill_random(Tensor dst, uint64_t seed, int64_t first_expert, int number, float range,
                 float middle = 0);

}  // namespace switchyard
