// cli/device.h -- the device a command runs on: its backend, buffers on it, weights on it.
#pragma once

#include <memory>

#include "layer_options.h"
#include "switchyard/backend.h"
#include "switchyard/layer.h"

namespace switchyard::cli {

// Of the device that `options` name, for rank `rank` of `num_ranks` on this machine; on the CPU
// with this rank's threads, as a layer makes it. On CUDA ranks take the devices that this process
// sees in turn, and those on one device share its multiprocessors.
std::shared_ptr<Backend> make_backend(const LayerOptions& options, int num_ranks, int rank);

// The weights where the layer reads them: a copy on a CUDA device, the given ones on the CPU.
LayerWeights place_weights(const LayerWeights& host, const MoeConfig& config, int num_ranks,
                           const LayerOptions& options, Backend& backend,
                           const Progress& progress = {});

// A tensor in memory of a backend's device.
class DeviceBuffer {
 public:
  // Holds anything.
  DeviceBuffer(Backend& backend, DeviceKind device, DType dtype, Shape shape);
  // A copy of memory of the host.
  DeviceBuffer(Backend& backend, DeviceKind device, ConstTensor host);

  Tensor view() const { return view_; }
  // Waits for the device's default stream, where the commands run their layers.
  void copy_to(void* host) const;

 private:
  Backend* backend_;
  std::shared_ptr<void> memory_;
  Tensor view_;
};

}  // namespace switchyard::cli
