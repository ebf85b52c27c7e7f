// src/comm/shared_window.cc
#include "comm/shared_window.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/require.h"
#include "device/deferred_free.h"

namespace switchyard {
namespace {

std::string why() {
  return std::strerror(errno);
}

// Ranks of one program end within milliseconds of each other; a second for a late one is not felt.
constexpr std::chrono::milliseconds kPatience{1000};

bool any_held(const std::vector<PeerProcessLock>& locks) {
  return std::ranges::any_of(locks, &PeerProcessLock::held);
}

}  // namespace

// A lock of flock(2) on a file without a name, which others open through /proc.
ProcessLock::ProcessLock() : file_(memfd_create("switchyard-lock", MFD_CLOEXEC)) {
  SWITCHYARD_REQUIRE(file_.open() && flock(file_.fd(), LOCK_EX | LOCK_NB) == 0, Unsupported,
                     "peer memory: no lock on a file in memory, ", why(),
                     ", ranks that are processes need it. Use threads as ranks.");
}

ProcessLock::Place ProcessLock::place() const {
  struct stat facts {};
  fstat(file_.fd(), &facts);
  return {getpid(), file_.fd(), static_cast<int64_t>(facts.st_dev),
          static_cast<int64_t>(facts.st_ino)};
}

void ProcessLock::release() {
  file_ = FileDescriptor();
}

PeerProcessLock::PeerProcessLock(const ProcessLock::Place& place, const std::string& who)
    : file_(::open(cat("/proc/", place.pid, "/fd/", place.fd).c_str(), O_RDWR | O_CLOEXEC)) {
  SWITCHYARD_REQUIRE(file_.open(), Unsupported, "peer memory: ", who, " is process ", place.pid,
                     " of this host, its files cannot be seen (", why(),
                     "). Run all ranks as one user in one container.");
  struct stat facts {};
  fstat(file_.fd(), &facts);
  SWITCHYARD_REQUIRE(static_cast<int64_t>(facts.st_dev) == place.device &&
                         static_cast<int64_t>(facts.st_ino) == place.inode,
                     Unsupported, "peer memory: ", who, " is process ", place.pid,
                     " where it runs, another process here. Run all ranks in one container.");
}

bool PeerProcessLock::held() const {
  if (flock(file_.fd(), LOCK_SH | LOCK_NB) != 0) return true;
  (void)flock(file_.fd(), LOCK_UN);
  return false;
}

SharedWindow::SharedWindow(std::shared_ptr<void> owner, std::shared_ptr<int32_t> ended)
    : owner_(std::move(owner)), ended_(std::move(ended)) {}

void SharedWindow::lend_to(const ProcessLock::Place& peer, const std::string& who) {
  peers_->emplace_back(peer, who);
}

bool SharedWindow::wait_for_peers() const {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (any_held(*peers_)) {
    if (std::atomic_ref(*ended_).load(std::memory_order_relaxed) != 0) return false;
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

SharedWindow::~SharedWindow() {
  borrowed_.clear();
  mine_.release();
  if (wait_for_peers() || owner_ == nullptr) return;
  defer_free(std::move(owner_), [peers = peers_] { return any_held(*peers); });
}

}  // namespace switchyard
