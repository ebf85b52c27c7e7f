// src/comm/peer_memory.cc
#include "comm/peer_memory.h"

#include <array>
#include <atomic>
#include <optional>

#include "base/require.h"

namespace switchyard {
namespace {

// What a rank shows the others, as i64 words.
enum Shown : size_t { kCode, kBase, kBytes, kDevice, kOwner, kNumShown };
using Card = std::array<int64_t, kNumShown>;

std::vector<Card> show(Communicator& communicator, const Card& mine) {
  std::vector<Card> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(
      Tensor(all.front().data(), {communicator.size(), static_cast<int64_t>(kNumShown)}),
      ConstTensor(mine.data(), {static_cast<int64_t>(kNumShown)}), nullptr);
  return all;
}

// Runs `part` and tells the others whether it threw; then every rank throws, or none.
template <class F>
std::vector<Card> together(Communicator& communicator, Card mine, F part) {
  std::optional<Error> failed;
  try {
    part();
  } catch (const Error& e) {
    failed.emplace(e);
    mine[kCode] = static_cast<int64_t>(e.code());
  }
  auto all = show(communicator, mine);
  if (failed) throw *failed;
  for (size_t r = 0; r < all.size(); ++r)
    if (const auto code = static_cast<Errc>(all[r][kCode]); all[r][kCode] != 0)
      throw Error(code, cat("peer memory: rank ", r, " refused (", errc_name(code),
                            "). See the error thrown there."));
  return all;
}

}  // namespace

PeerMemory::PeerMemory(Communicator& communicator, Backend& backend, Workspace window,
                       Tensor control, const std::shared_ptr<void>& owner) {
  SWITCHYARD_REQUIRE(communicator.shares_process(), Unsupported,
                     "peer memory: transport=", communicator.transport(),
                     ", need ranks that are threads of one process. Use make_local_ranks.");
  Memory& memory = backend.memory();
  const auto num_ranks = static_cast<size_t>(communicator.size());
  window_.rank = communicator.rank();
  window_.num_ranks = communicator.size();
  window_.control = control;
  window_.deadline_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(communicator.deadline()).count();

  Card mine{};
  mine[kBase] = reinterpret_cast<int64_t>(window.data);
  mine[kBytes] = static_cast<int64_t>(window.bytes);
  mine[kDevice] = memory.ordinal();
  mine[kOwner] = reinterpret_cast<int64_t>(&owner);
  const auto all = together(communicator, mine, [&] {
    SWITCHYARD_REQUIRE(control.data == window.data, ShapeMismatch,
                       "peer memory: the control words are not at the window's beginning.");
    const std::vector<int64_t> zeros(static_cast<size_t>(control.count()));
    memory.copy_in(control, zeros.data(), nullptr);
    bases_ = memory.allocate(num_ranks * sizeof(int64_t));
    ended_ = memory.shared_word();
    backend.load_kernels();
  });
  // Owners and windows of every rank stay where they are until all ranks have come past here.
  together(communicator, mine, [&] {
    std::vector<int64_t> bases;
    for (size_t r = 0; r < num_ranks; ++r) {
      SWITCHYARD_REQUIRE(all[r][kBytes] == mine[kBytes], ShapeMismatch,
                         "peer memory: bytes=", all[r][kBytes], " on rank ", r, ", rank ",
                         window_.rank, " has ", mine[kBytes], ". Windows must be of equal size.");
      const auto device = static_cast<int>(all[r][kDevice]);
      window_.shares_device |= static_cast<int>(r) != window_.rank && device == memory.ordinal();
      const std::string why = memory.reach(device);
      SWITCHYARD_REQUIRE(why.empty(), Unsupported, "peer memory: rank ", window_.rank, ", ", why,
                         ". Use devices that are linked.");
      bases.push_back(all[r][kBase]);
      owners_.push_back(*reinterpret_cast<const std::shared_ptr<void>*>(all[r][kOwner]));
    }
    const Tensor table(bases_.get(), DType::I64, {communicator.size()}, memory.kind());
    memory.copy_in(table, bases.data(), nullptr);
    window_.bases = table;
  });
  window_.ended = ended_.get();
  watch_ = communicator.when_over(
      [word = ended_] { std::atomic_ref(*word).store(1, std::memory_order_relaxed); });
}

}  // namespace switchyard
