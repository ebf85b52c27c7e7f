// src/device/no_cuda.cc -- in place of src/cuda/ and src/device/cuda_*.cc in a build without CUDA.
#include "base/require.h"
#include "device/describe_cuda.h"

namespace switchyard {

DeviceDescription describe_cuda() {
  DeviceDescription d;
  d.kind = DeviceKind::Cuda;
  d.name = "CUDA";
  d.available = false;
  d.unavailable_reason = "this build has no CUDA kernels (configure with SWITCHYARD_CUDA=ON)";
  return d;
}

std::shared_ptr<Backend> make_cuda_backend(const CudaOptions&) {
  throw Error(Errc::Unsupported, cat("make_cuda_backend: device=cuda, ",
                                     describe_cuda().unavailable_reason, ". Use the CPU."));
}

}  // namespace switchyard
