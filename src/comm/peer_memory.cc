// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/peer_memory.cc
#include "comm/peer_memory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/require.h"
#include "comm/handshake.h"
#include "device/process_memory.h"

namespace switchyard {
namespace {

// Ranks of one program end within milliseconds of each other; a second for a late one is not felt.
constexpr std::chrono::milliseconds kPatience{1000};

bool any_held(const std::vector<PeerProcessLock>& locks) {
  return std::ranges::any_of(locks, &PeerProcessLock::held);
}

// What a rank tells the others. Plain words.
struct Handshake {
  int64_t code = 0;  // of an Error; 0: good
  int64_t bytes = 0;
  ProcessIdentity process;
  int64_t base = 0, owner = 0, ordinal = 0;  // what they mean in that process
  DeviceId device{};
  ProcessLock::Place lock;
  SharedRange range;
};

// A window of this process stays where it is for this rank, too.
int64_t reach_here(Memory& memory, const Handshake& peer, int rank,
                   std::vector<std::shared_ptr<void>>& owners) {
  const std::string why = memory.reach(static_cast<int>(peer.ordinal));
  SWITCHYARD_REQUIRE(
      why.empty(), Unsupported, "peer memory: rank ", rank, ", ", why,
      ". Use devices that are linked, or peer_memory=false: NCCL then carries rows.");
  owners.push_back(*reinterpret_cast<const std::shared_ptr<void>*>(peer.owner));
  return peer.base;
}

}  // namespace

// A lock of flock(2) on a file without a name, which others open through /proc.
ProcessLock::ProcessLock() : file_(memfd_create("switchyard-lock", MFD_CLOEXEC)) {
  SWITCHYARD_REQUIRE(file_.open() && flock(file_.fd(), LOCK_EX | LOCK_NB) == 0, Unsupported,
                     "peer memory: no lock on a file in memory, ", errno_text(),
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
                     " of this host, its files cannot be seen (", errno_text(),
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

// ---- a window that other processes have open, while this one has theirs

// CUDA wants memory that other processes opened to stay until they closed it. At the end of a layer
// ranks cannot meet any more: a peer may be stopped, or gone. So every rank holds a process lock
// for as long as it has windows of others open; a rank that sees no lock held may free its own
// window. Ranks that end together wait for each other, a moment; a window that is still in use then
// is kept, and freed by a later allocation of this process, or by its end. A killed peer's lock is
// gone with it, a stopped one's is not: rather a window lost than a rank that hangs.
class SharedWindow {
 public:
  // `owner` of this rank's window may be null: then the caller keeps it. `ended` is not 0 once the
  // communicator is over, when waiting is in vain.
  SharedWindow(std::shared_ptr<void> owner, std::shared_ptr<int32_t> ended)
      : owner_(std::move(owner)), ended_(std::move(ended)) {}
  ~SharedWindow() {
    borrowed_.clear();
    mine_.release();
    if (wait_for_peers() || owner_ == nullptr) return;
    defer_free(std::move(owner_), [peers = peers_] { return any_held(*peers); });
  }
  SharedWindow(const SharedWindow&) = delete;
  SharedWindow& operator=(const SharedWindow&) = delete;

  ProcessLock::Place place() const { return mine_.place(); }
  // Before the peer may open this window.
  void lend_to(const ProcessLock::Place& peer, const std::string& who) {
    peers_->emplace_back(peer, who);
  }
  // A peer's window, open until this object is gone.
  void borrow(std::shared_ptr<void> window) { borrowed_.push_back(std::move(window)); }

 private:
  bool wait_for_peers() const {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (any_held(*peers_)) {
      if (std::atomic_ref(*ended_).load(std::memory_order_relaxed) != 0) return false;
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return true;
  }

  std::shared_ptr<void> owner_;
  std::shared_ptr<int32_t> ended_;
  ProcessLock mine_;
  std::shared_ptr<std::vector<PeerProcessLock>> peers_ =
      std::make_shared<std::vector<PeerProcessLock>>();
  std::vector<std::shared_ptr<void>> borrowed_;
};

namespace {

// A window of another process is somewhere else here.
int64_t open_here(Memory& memory, const Handshake& peer, size_t peer_rank, SharedWindow& shared) {
  try {
    auto opened = memory.open(peer.range, peer.device);
    const auto base = reinterpret_cast<int64_t>(opened.get());
    shared.borrow(std::move(opened));
    return base;
  } catch (const Error& e) {
    throw Error(e.code(), cat("peer memory: window of rank ", peer_rank, ": ", e.what()));
  }
}

}  // namespace

PeerMemory::~PeerMemory() = default;

PeerMemory::PeerMemory(Communicator& communicator, Backend& backend, Workspace window,
                       Tensor control, const std::shared_ptr<void>& owner) {
  Memory& memory = backend.memory();
  const auto num_ranks = static_cast<size_t>(communicator.size());
  window_.rank = communicator.rank();
  window_.num_ranks = communicator.size();
  window_.control = control;
  window_.deadline_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(communicator.deadline()).count();

  Handshake mine;
  mine.bytes = static_cast<int64_t>(window.bytes);
  mine.process = ProcessIdentity::mine();
  mine.base = reinterpret_cast<int64_t>(window.data);
  mine.owner = reinterpret_cast<int64_t>(&owner);
  mine.ordinal = memory.ordinal();
  mine.device = memory.id();
  const auto all = agree("peer memory", communicator, mine, [&] {
    SWITCHYARD_REQUIRE(control.data == window.data, ShapeMismatch,
                       "peer memory: the control words are not at the window's beginning.");
    const std::vector<int64_t> zeros(control.count());
    memory.copy_in(control, zeros.data(), nullptr);
    bases_ = memory.allocate(num_ranks * sizeof(int64_t));
    ended_ = memory.shared_word();
    backend.load_kernels();
    if (communicator.shares_process()) return;
    shared_ = std::make_unique<SharedWindow>(owner, ended_);
    mine.lock = shared_->place();
    mine.range = memory.share(window.data);
  });
  const auto here = [&](size_t r) { return all[r].process == mine.process; };

  // Before a window is opened, its rank knows whom it is lent to.
  agree("peer memory", communicator, mine, [&] {
    for (size_t r = 0; r < num_ranks; ++r) {
      SWITCHYARD_REQUIRE(all[r].bytes == mine.bytes, ShapeMismatch,
                         "peer memory: bytes=", all[r].bytes, " on rank ", r, ", rank ",
                         window_.rank, " has ", mine.bytes, ". Windows must be of equal size.");
      SWITCHYARD_REQUIRE(all[r].process.host == mine.process.host, Unsupported,
                         "peer memory: rank ", r, " is on another host than rank ", window_.rank,
                         ", kernels reach memory of one host. Use ranks of one host.");
      if (!here(r)) shared_->lend_to(all[r].lock, cat("rank ", r));
      window_.shares_device |=
          here(r) && static_cast<int>(r) != window_.rank && all[r].ordinal == mine.ordinal;
    }
  });
  // Owners and windows of every rank stay where they are until all ranks have come past here.
  agree("peer memory", communicator, mine, [&] {
    std::vector<int64_t> bases;
    for (size_t r = 0; r < num_ranks; ++r)
      bases.push_back(here(r) ? reach_here(memory, all[r], window_.rank, owners_)
                              : open_here(memory, all[r], r, *shared_));
    const Tensor table(bases_.get(), DType::I64, {communicator.size()}, memory.kind());
    memory.copy_in(table, bases.data(), nullptr);
    window_.bases = table;
    watch_ = communicator.when_over(
        [word = ended_] { std::atomic_ref(*word).store(1, std::memory_order_relaxed); });
  });
  window_.ended = ended_.get();
}

}  // namespace switchyard
