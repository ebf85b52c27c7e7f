// src/comm/process_lock.cc -- a lock of flock(2) on a file without a name, which others open
// through /proc.
#include "comm/process_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/require.h"

namespace switchyard {
namespace {

std::string why() {
  return std::strerror(errno);
}

}  // namespace

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

}  // namespace switchyard
