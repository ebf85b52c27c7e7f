// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/no_nccl.cc -- in place of the other nccl_*.cc where the build has no NCCL.
#include "base/require.h"
#include "comm/device_link.h"

namespace switchyard {

bool has_nccl() noexcept {
  return false;
}

std::shared_ptr<DeviceLink> make_nccl_link(Communicator&, const std::shared_ptr<Backend>&) {
  throw Error(Errc::Unsupported,
              "nccl: this build has no NCCL. Install it and build again with CUDA (docs/guide/"
              "ranks.md), or use ranks that reach each other's memory.");
}

}  // namespace switchyard
