// src/comm/nccl_link.h -- NCCL between the ranks of a communicator: one communicator of NCCL for
// all layers of it and a device. A build without NCCL has its own form (no_nccl.cc).
//
// NCCL's own calls never wait here for long: its communicator is a non-blocking one. A thread
// beside the rank's own looks whether work that was enqueued ends, and whether the host's
// communicator is over; if so it aborts NCCL's communicator, and kernels that wait for a peer end.
// What they leave behind means nothing, which `ended` says.
#pragma once

#include "base/backend.h"
#include "comm/device_link.h"

namespace switchyard {

// Collective. Throws Error(Unsupported) on every rank where NCCL cannot be: this build has none,
// versions differ, two ranks share a GPU; Transport when a rank does not come.
std::shared_ptr<DeviceLink> make_nccl_link(Communicator& host,
                                           const std::shared_ptr<Backend>& backend);

}  // namespace switchyard
