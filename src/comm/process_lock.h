// src/comm/process_lock.h -- whether another process of this host is still using something, also
// when that process was killed: it holds a lock, which the system takes from it at its end.
#pragma once

#include <cstdint>
#include <string>

#include "comm/sockets.h"

namespace switchyard {

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

}  // namespace switchyard
