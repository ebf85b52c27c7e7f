// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/host.h -- backends, weights and workspaces as Python holds them.
#pragma once

#include <memory>
#include <string>

#include "arrays.h"
#include "switchyard/checkpoint.h"
#include "switchyard/communicator.h"
#include "switchyard/layer.h"

namespace switchyard::python {

// How often this process has been forked off since the module was imported: threads of a backend
// stay behind in the parent.
int fork_generation();
void watch_forks();

// A backend with its place. One that a fork has copied is neither used nor destroyed: both would
// wait for threads that are not there.
class HostBackend {
 public:
  HostBackend(std::shared_ptr<Backend> backend, DeviceIndex device);
  ~HostBackend();
  HostBackend(const HostBackend&) = delete;
  HostBackend& operator=(const HostBackend&) = delete;

  DeviceIndex device() const { return device_; }
  // Throws Error(Unsupported) in a forked process.
  const std::shared_ptr<Backend>& use(const char* operation) const;

 private:
  std::shared_ptr<Backend> backend_;
  DeviceIndex device_;
  int generation_;
};
std::shared_ptr<HostBackend> make_backend(DeviceIndex device, int num_threads, int num_sms);

struct HostWorkspace {
  std::shared_ptr<HostBackend> backend;
  std::shared_ptr<SharedWorkspace> shared;
};

struct HostWeights {
  LayerWeights weights;
  DeviceIndex device;
};
inline BlockScales scales_of(ConstTensor values, ScaleBlock block) {
  return values.present() ? BlockScales{values, block} : BlockScales{};
}
// "bf16", "native".
WeightForms weight_forms(const char* operation, const std::string& name);

class HostCommunicator {
 public:
  explicit HostCommunicator(std::unique_ptr<Communicator> communicator)
      : communicator_(std::move(communicator)) {}
  Communicator& get() const { return *communicator_; }

 private:
  std::unique_ptr<Communicator> communicator_;
};

// LayerOptions with what Python holds in place of the pointers.
struct HostOptions : LayerOptions {
  std::shared_ptr<HostBackend> host_backend;
  std::shared_ptr<HostWorkspace> host_workspace;
  std::shared_ptr<HostCommunicator> communicator;
  Optional lent_workspace;

  int num_ranks() const { return communicator ? communicator->get().size() : 1; }
  int rank() const { return communicator ? communicator->get().rank() : 0; }
};

}  // namespace switchyard::python
