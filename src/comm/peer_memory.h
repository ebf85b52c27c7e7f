// src/comm/peer_memory.h -- one window of every rank that all ranks can reach. This provider serves
// ranks that are threads of one process, on one device or on several.
#pragma once

#include <memory>
#include <vector>

#include "base/backend.h"
#include "device/memory.h"
#include "ops/ops.h"
#include "switchyard/communicator.h"

namespace switchyard {

class PeerMemory {
 public:
  // Collective: every rank gives a window of equal size that begins with `control`. `owner` lives
  // until the last rank's PeerMemory is gone: a peer that is late may still write a word.
  // Throws ShapeMismatch, Unsupported, Transport on every rank or on none.
  PeerMemory(Communicator& communicator, Backend& backend, Workspace window, Tensor control,
             const std::shared_ptr<void>& owner);

  // Without headers, which the caller adds.
  const PeerWindow& window() const { return window_; }

 private:
  PeerWindow window_;
  std::vector<std::shared_ptr<void>> owners_;  // of every rank's window
  std::shared_ptr<void> bases_;
  std::shared_ptr<int32_t> ended_;
  std::shared_ptr<void> watch_;  // of the communicator; first to go
};

}  // namespace switchyard
