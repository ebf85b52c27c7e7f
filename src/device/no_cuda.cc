// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/no_cuda.cc -- in place of src/cuda/ and src/device/cuda_*.cc in a build without CUDA.
#include "base/require.h"
#include "device/cuda_device.h"
#include "device/stopwatch.h"

namespace switchyard {
namespace {

[[noreturn]] void refuse(const char* operation) {
  throw Error(Errc::Unsupported, cat(operation, ": device=cuda, ",
                                     describe_cuda().unavailable_reason, ". Use the CPU."));
}

}  // namespace

DeviceDescription describe_cuda() {
  return no_cuda_device("this build has no CUDA kernels (configure with SWITCHYARD_CUDA=ON)");
}

int current_cuda_device() {
  return 0;
}

std::shared_ptr<Backend> make_cuda_backend(const CudaOptions&) {
  refuse("make_cuda_backend");
}

// No backend of this build is one of CUDA, so these are not called.
std::unique_ptr<Stopwatch> make_cuda_stopwatch(Backend&) {
  refuse("measure_forward");
}

DeviceRates measure_cuda_device(Backend&) {
  refuse("measure_device");
}

double measure_cuda_link(Backend&, Backend&, int64_t) {
  refuse("measure_link");
}

void fill_random(Tensor, uint64_t, int64_t, int, float, float) {
  refuse("random_device_weights");
}

}  // namespace switchyard
