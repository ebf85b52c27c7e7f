// src/comm/peer_memory.cc
#include "comm/peer_memory.h"

#include <atomic>

#include "base/require.h"
#include "comm/handshake.h"

namespace switchyard {
namespace {

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
