// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/nccl_link.cc -- NCCL as the link between devices of ranks.
//
// NCCL's own calls never wait here for long: its communicator is a non-blocking one. A thread
// beside the rank's own looks whether work that was enqueued ends, and whether the host's
// communicator is over; if so it aborts NCCL's communicator, and kernels that wait for a peer end.
// What they leave behind means nothing, which `ended` says.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>

#include "comm/device_link.h"
#include "comm/handshake.h"
#include "comm/nccl_library.h"
#include "comm/nccl_state.h"
#include "comm/shared_by_ranks.h"
#include "device/memory.h"

namespace switchyard {
namespace {

constexpr const char* kOperation = "nccl";

// What a rank tells the others. Plain words.
struct Handshake {
  int64_t code = 0;  // of an Error; 0: good
  ProcessIdentity process;
  DeviceId device{};
  int64_t version = 0;  // of NCCL, where the program runs
  std::array<int64_t, sizeof(ncclUniqueId) / sizeof(int64_t)> id{};  // of rank 0
};

void check(const char* name, ncclResult_t answer) {
  SWITCHYARD_REQUIRE(answer == ncclSuccess, Transport, "nccl: ", name, "=",
                     nccl_library().error_string(answer), ", ", nccl_library().last_error(nullptr),
                     ". Set NCCL_DEBUG=INFO and look at that rank.");
}

Handshake handshake_of(int rank, Memory& memory) {
  Handshake mine;
  mine.process = ProcessIdentity::mine();
  mine.device = memory.id();
  const NcclLibrary& nccl = nccl_library();
  int version = 0;
  check("ncclGetVersion", nccl.get_version(&version));
  mine.version = version;
  if (rank > 0) return mine;
  ncclUniqueId id;
  check("ncclGetUniqueId", nccl.get_unique_id(&id));
  std::memcpy(mine.id.data(), &id, sizeof id);
  return mine;
}

// The same verdict on every rank, since all see the same handshakes.
void require_usable(const std::vector<Handshake>& all) {
  for (size_t r = 0; r < all.size(); ++r) {
    SWITCHYARD_REQUIRE(all[r].version == all[0].version, Unsupported,
                       "nccl: version=", all[r].version, " on rank ", r, ", rank 0 has ",
                       all[0].version, ". Run the same NCCL everywhere.");
    for (size_t other = 0; other < r; ++other)
      SWITCHYARD_REQUIRE(
          all[r].process.host != all[other].process.host || all[r].device != all[other].device,
          Unsupported, "nccl: ranks ", other, " and ", r,
          " are on one GPU, NCCL needs one for each rank. Use as many GPUs as ranks, or let ranks "
          "of one host reach each other's memory.");
  }
}

bool has_siblings(const std::vector<Handshake>& all, const ProcessIdentity& process) {
  return std::ranges::count(all, process, &Handshake::process) > 1;
}

class NcclLink final : public DeviceLink {
 public:
  // Collective.
  NcclLink(Communicator& host, const std::shared_ptr<Backend>& backend)
      : rank_(host.rank()),
        num_ranks_(host.size()),
        state_(std::make_shared<NcclState>(backend, host.deadline())),
        over_(host.when_over([state = state_] { state->note_over(); })) {
    try {
      introduce(host, *backend);
    } catch (...) {
      state_->end("nccl: the ranks did not connect.");
      leave();
      throw;
    }
  }
  ~NcclLink() override { leave(); }
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  void exchange(std::span<const Gather> gathers, std::span<const OutgoingParcel> out,
                std::span<const IncomingParcel> in, CUstream_st* stream) override {
    if (gathers.empty() && out.empty() && in.empty()) return state_->require_open();
    const char* name = gathers.empty() ? "ncclSend, ncclRecv" : "ncclAllGather";
    state_->call(
        name, [&](ncclComm_t comm) { return exchange_in_group(gathers, out, in, comm, stream); });
    state_->set_mark(stream);
  }

  void expect(CUstream_st* stream) override { state_->set_mark(stream); }
  void finish_work() noexcept override {
    try {
      state_->drain();
    } catch (...) {  // it is over, and the next call gets the reason
    }
  }
  void require_open() override { state_->require_open(); }
  bool is_open() { return state_->is_open(); }
  const int32_t* ended() const override { return state_->ended(); }

  bool is_capturing(CUstream_st* stream) override { return NcclState::is_capturing(stream); }

 private:
  void start_watching() {
    try {
      watcher_ = std::thread([state = state_] { state->watch(); });
    } catch (const std::system_error& e) {
      throw Error(Errc::Unsupported, cat("nccl: no thread to watch for lost peers (", e.what(),
                                         "). Raise the limit of threads."));
    }
  }

  void introduce(Communicator& host, Backend& backend) {
    Handshake mine;
    const auto all = agree(kOperation, host, mine, [&] {
      start_watching();
      backend.load_kernels();
      mine = handshake_of(rank_, backend.memory());
    });
    require_usable(all);
    agree(kOperation, host, mine, [&] {
      ncclUniqueId id;
      std::memcpy(&id, all[0].id.data(), sizeof id);
      state_->connect(id, num_ranks_, rank_);
      warm_up(backend.memory());
    });
    if (has_siblings(all, mine.process)) state_->note_siblings();
  }

  // Ranks connect to each other at their first messages, small and large ones in ways of their own.
  // Not in a forward, which allocates nothing.
  void warm_up(Memory& memory) {
    constexpr int64_t kBytes[] = {256, int64_t{256} << 10};
    const auto stream = memory.make_stream();
    const int64_t all_bytes = num_ranks_ * kBytes[1];
    const auto from = memory.allocate(static_cast<size_t>(all_bytes));
    const auto to = memory.allocate(static_cast<size_t>(all_bytes));
    for (const int64_t bytes : kBytes) {
      const auto at = [&](const std::shared_ptr<void>& memory_of, int rank) {
        return static_cast<std::byte*>(memory_of.get()) + rank * bytes;
      };
      const Gather gather{Tensor(to.get(), DType::I64, {num_ranks_ * bytes / 8}, DeviceKind::Cuda),
                          ConstTensor(from.get(), DType::I64, {bytes / 8}, DeviceKind::Cuda)};
      exchange({&gather, 1}, {}, {}, stream.get());
      std::vector<OutgoingParcel> out;
      std::vector<IncomingParcel> in;
      for (int r = 0; r < num_ranks_; ++r) {
        if (r == rank_) continue;
        out.push_back({r, at(from, r), bytes});
        in.push_back({r, at(to, r), bytes});
      }
      exchange({}, out, in, stream.get());
    }
    state_->drain();
  }

  // NCCL makes one kernel of a group.
  static ncclResult_t exchange_in_group(std::span<const Gather> gathers,
                                        std::span<const OutgoingParcel> out,
                                        std::span<const IncomingParcel> in, ncclComm_t comm,
                                        CUstream_st* stream) {
    ncclResult_t first = ncclSuccess;
    const auto keep = [&first](ncclResult_t answer) {
      if (first == ncclSuccess && answer != ncclInProgress) first = answer;
    };
    const NcclLibrary& nccl = nccl_library();
    keep(nccl.group_start());
    for (const auto& [dst, src] : gathers)
      keep(nccl.all_gather(src.data, dst.data, static_cast<size_t>(src.bytes()), ncclUint8, comm,
                           stream));
    for (const auto& parcel : out)
      keep(nccl.send(parcel.data, static_cast<size_t>(parcel.bytes), ncclUint8, parcel.peer, comm,
                     stream));
    for (const auto& parcel : in)
      keep(nccl.recv(parcel.data, static_cast<size_t>(parcel.bytes), ncclUint8, parcel.peer, comm,
                     stream));
    keep(nccl.group_end());  // whatever came before: the group is the thread's
    return first;
  }

  void leave() noexcept {
    if (!watcher_.joinable()) return;
    if (state_->close())
      watcher_.join();
    else
      watcher_.detach();  // NCCL does not let it go: it stays, with all it needs
  }

  const int rank_, num_ranks_;
  std::shared_ptr<NcclState> state_;
  std::thread watcher_;
  std::shared_ptr<void> over_;  // of the host's communicator; first to go
};

SharedByRanks<NcclLink>& shared_links() {
  static SharedByRanks<NcclLink> links;
  return links;
}

}  // namespace

std::shared_ptr<DeviceLink> make_nccl_link(Communicator& host,
                                           const std::shared_ptr<Backend>& backend) {
  return shared_links().get(host, backend->memory().ordinal(),
                            [&] { return std::make_shared<NcclLink>(host, backend); });
}

}  // namespace switchyard
