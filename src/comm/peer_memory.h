// src/comm/peer_memory.h -- one window of every rank that all ranks can reach: threads of one
// process by its address, processes of one host by what the device's memory shares; on one device
// or on several.
#pragma once

#include <memory>
#include <vector>

#include "base/backend.h"
#include "comm/shared_window.h"
#include "device/memory.h"
#include "ops/ops.h"
#include "switchyard/communicator.h"

namespace switchyard {

class PeerMemory {
 public:
  // Collective: every rank gives a window of equal size that begins with `control`. `owner` lives
  // until the last rank's PeerMemory is gone: a peer that is late may still write a word.
  // Throws ShapeMismatch, Unsupported, Transport on every rank or on none. Never waits long when it
  // is destroyed: see comm/shared_window.h.
  PeerMemory(Communicator& communicator, Backend& backend, Workspace window, Tensor control,
             const std::shared_ptr<void>& owner);

  // Without headers, which the caller adds.
  const PeerWindow& window() const { return window_; }

 private:
  PeerWindow window_;
  std::vector<std::shared_ptr<void>> owners_;  // of the windows of this process
  std::shared_ptr<void> bases_;
  std::shared_ptr<int32_t> ended_;
  std::unique_ptr<SharedWindow> shared_;  // where ranks are processes
  std::shared_ptr<void> watch_;           // of the communicator; first to go
};

}  // namespace switchyard
