// src/comm/shared_window.h -- a window that other processes have open, while this one has theirs.
//
// CUDA wants memory that other processes opened to stay until they closed it. At the end of a layer
// ranks cannot meet any more: a peer may be stopped, or gone. So every rank holds a process lock
// for as long as it has windows of others open; a rank that sees no lock held may free its own
// window. Ranks that end together wait for each other, a moment; a window that is still in use then
// is kept, and freed by a later allocation of this process, or by its end. A killed peer's lock is
// gone with it, a stopped one's is not: rather a window lost than a rank that hangs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/sockets.h"

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

// ---- the window

class SharedWindow {
 public:
  // `owner` of this rank's window may be null: then the caller keeps it. `ended` is not 0 once the
  // communicator is over, when waiting is in vain.
  SharedWindow(std::shared_ptr<void> owner, std::shared_ptr<int32_t> ended);
  ~SharedWindow();
  SharedWindow(const SharedWindow&) = delete;
  SharedWindow& operator=(const SharedWindow&) = delete;

  ProcessLock::Place place() const { return mine_.place(); }
  // Before the peer may open this window.
  void lend_to(const ProcessLock::Place& peer, const std::string& who);
  // A peer's window, open until this object is gone.
  void borrow(std::shared_ptr<void> window) { borrowed_.push_back(std::move(window)); }

 private:
  bool wait_for_peers() const;

  std::shared_ptr<void> owner_;
  std::shared_ptr<int32_t> ended_;
  ProcessLock mine_;
  std::shared_ptr<std::vector<PeerProcessLock>> peers_ =
      std::make_shared<std::vector<PeerProcessLock>>();
  std::vector<std::shared_ptr<void>> borrowed_;
};

}  // namespace switchyard
