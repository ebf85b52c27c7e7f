// cli/device.cc
#include "device.h"

#include <algorithm>
#include <thread>

namespace switchyard::cli {

std::shared_ptr<Backend> make_backend(const LayerOptions& options, int num_ranks, int rank) {
  if (options.device == DeviceKind::Cuda) {
    if (num_ranks == 1) return make_cuda_backend({.num_sms = options.num_sms});
    const auto& device = describe_device(DeviceKind::Cuda);
    const int sharing = (num_ranks + device.num_devices - 1) / device.num_devices;
    // Kernels that wait for a peer keep a multiprocessor from taking a whole block of a GEMM.
    const int own = sharing == 1 ? 0 : std::max(2, (device.num_sms - 2) / sharing);
    return make_cuda_backend({.num_sms = options.num_sms > 0 ? options.num_sms : own,
                              .device = rank % device.num_devices});
  }
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return make_cpu_backend(options.num_threads > 0 ? options.num_threads
                                                  : std::max(1, cores / num_ranks));
}

LayerWeights place_weights(const LayerWeights& host, const MoeConfig& config, int num_ranks,
                           const LayerOptions& options, Backend& backend,
                           const Progress& progress) {
  if (options.device == DeviceKind::Cpu) return host;
  return to_device(host, config, num_ranks, backend, progress);
}

DeviceBuffer::DeviceBuffer(Backend& backend, DeviceKind device, DType dtype, Shape shape)
    : backend_(&backend), view_(nullptr, dtype, shape, device) {
  memory_ = allocate(backend, static_cast<size_t>(view_.bytes()));
  view_.data = memory_.get();
}

DeviceBuffer::DeviceBuffer(Backend& backend, DeviceKind device, ConstTensor host)
    : DeviceBuffer(backend, device, host.dtype, host.shape) {
  if (host.bytes() > 0) copy_to_device(backend, view_, host.data);
}

void DeviceBuffer::copy_to(void* host) const {
  if (view_.bytes() > 0) copy_to_host(*backend_, host, view_);
}

}  // namespace switchyard::cli
