// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/gpu_ranks.h -- ranks with a GPU each, or a share of one; as threads of this
// process.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

#include "device/cuda_check.h"
#include "testing/cuda_graph.h"
#include "testing/cuda_layer.h"
#include "testing/overdue.h"
#include "testing/peer_dispatch.h"

namespace switchyard::testing {

struct Placement {
  int num_ranks = 2;
  int num_devices = 1;
};
inline std::string name_of(const Placement& p) {
  return std::to_string(p.num_ranks) + "RanksOn" + std::to_string(p.num_devices) + "Gpus";
}

// At the head of a test over ranks.
#define SWITCHYARD_SKIP_WITHOUT_GPUS(wanted)                                                \
  SWITCHYARD_SKIP_WITHOUT_HOPPER();                                                         \
  if (::switchyard::describe_device(::switchyard::DeviceKind::Cuda).num_devices < (wanted)) \
  GTEST_SKIP() << "needs " << (wanted) << " GPUs, there is "                                \
               << ::switchyard::describe_device(::switchyard::DeviceKind::Cuda).num_devices

struct GpuRank {
  Communicator& comm;
  std::shared_ptr<Backend> backend;
  cudaStream_t stream;

  int rank() const { return comm.rank(); }
  // Before memory is freed or allocated: either may wait for every kernel of the device, a peer's
  // that waits for this rank's next one included.
  void everyone() { meet(comm); }
};

// Ranks on one device share its multiprocessors; two are left to the kernels that wait.
inline void run_gpu_rank(const Placement& p, Communicator& comm,
                         const std::function<void(GpuRank&)>& body) {
  const int sms = describe_device(DeviceKind::Cuda).num_sms;
  const int sharing = (p.num_ranks + p.num_devices - 1) / p.num_devices;
  const auto backend = make_cuda_backend(
      {.num_sms = sharing == 1 ? 0 : (sms - 2) / sharing, .device = comm.rank() % p.num_devices});
  const Stream stream;
  GpuRank rank{comm, backend, stream.get()};
  body(rank);
}

inline void run_gpu_ranks(const Placement& p, const std::function<void(GpuRank&)>& body,
                          LocalRanksOptions options = {}) {
  const Overdue overdue(std::chrono::seconds(25));  // a little less than waits for peers may take
  run_local_ranks(
      p.num_ranks, [&](Communicator& comm) { run_gpu_rank(p, comm, body); }, options);
}

}  // namespace switchyard::testing
