// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/peer_memory.h -- one window of every rank that all ranks can reach: threads of one
// process by its address, processes of one host by what the device's memory shares; on one device
// or on several.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/backend.h"
#include "comm/sockets.h"
#include "device/memory.h"
#include "ops/ops.h"
#include "switchyard/communicator.h"

namespace switchyard {

// ---- whether another process of this host is still using something, also when that process was
// killed: it holds a lock, which the system takes from it at its end

// Held from its construction until it is released. A child that a fork made, and that runs no
// other program, holds it too.
class ProcessLock {
 public:
  // Where other processes find it. Plain words.
  struct Place {
    int64_t pid = 0, fd = 0, device = 0, inode = 0;
  };

  ProcessLock();  // throws Error(Unsupported) with the reason
  Place place() const;
  void release();

 private:
  FileDescriptor file_;
};

// The lock of another process.
class PeerProcessLock {
 public:
  // Throws Error(Unsupported) where that process cannot be seen; `who` is "rank 2".
  PeerProcessLock(const ProcessLock::Place& place, const std::string& who);
  bool held() const;

 private:
  FileDescriptor file_;
};

class SharedWindow;  // peer_memory.cc

// ---- one window of every rank

class PeerMemory {
 public:
  // Collective: every rank gives a window of equal size that begins with `control`. `owner` lives
  // until the last rank's PeerMemory is gone: a peer that is late may still write a word.
  // Throws ShapeMismatch, Unsupported, Transport on every rank or on none. Never waits long when it
  // is destroyed: see peer_memory.cc.
  PeerMemory(Communicator& communicator, Backend& backend, Workspace window, Tensor control,
             const std::shared_ptr<void>& owner);
  ~PeerMemory();

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
