// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/dispatcher/peer_connections.h -- workspaces that peers know as windows, and what dispatchers
// over them have in common.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>

#include "base/require.h"
#include "comm/peer_memory.h"
#include "dispatcher/parts.h"

namespace switchyard {

// Buffers have `control`, at the beginning of a window, and `headers`.
template <class Buffers>
class PeerConnections {
 public:
  struct Connection {
    void* address = nullptr;
    int64_t max_tokens = 0;
    Buffers buffers;
    std::unique_ptr<PeerMemory> memory;
    PeerWindow window;
  };

  // `parts` outlive it.
  explicit PeerConnections(const DispatcherParts& parts) : parts_(parts) {}

  // Collective: take(arena) cuts the workspace.
  template <class Take>
  void add(Workspace workspace, int64_t max_tokens, const std::shared_ptr<void>& owner,
           const Take& take) {
    Connection c;
    c.address = workspace.data;
    c.max_tokens = max_tokens;
    Arena arena(workspace, parts_.backend->kind());
    c.buffers = take(arena);
    c.memory = std::make_unique<PeerMemory>(parts_.communicator, *parts_.backend,
                                            Workspace{workspace.data, arena.bytes()},
                                            c.buffers.control, owner);
    c.window = c.memory->window();
    c.window.headers = c.buffers.headers;
    c.window.max_blocks = parts_.options.num_link_blocks;
    if (const auto timeout = parts_.options.lost_rank_timeout; timeout.count() > 0) {
      c.window.active = parts_.options.active_ranks;
      c.window.deadline_ns = std::chrono::nanoseconds(timeout).count();
    }
    all_.push_back(std::move(c));
  }

  const Connection& find(Workspace workspace, int64_t max_tokens) const {
    const auto found = std::ranges::find(all_, workspace.data, &Connection::address);
    SWITCHYARD_REQUIRE(found != all_.end(), ShapeMismatch,
                       "dispatch: the workspace is not known to the peers. Call connect on every "
                       "rank first.");
    SWITCHYARD_REQUIRE(max_tokens <= found->max_tokens, ShapeMismatch,
                       "dispatch: max_tokens=", max_tokens, ", the workspace was connected with ",
                       found->max_tokens, ". Connect it with more.");
    return *found;
  }

  bool serializes_enqueue() const {
    return parts_.backend->kind() == DeviceKind::Cuda && !parts_.options.host_ordered &&
           !all_.empty() && all_.front().window.shares_device;
  }

  // A stream that ranks share would put one rank's wait before the other's words.
  void require_stream(const Connection& c, CUstream_st* stream) const {
    SWITCHYARD_REQUIRE(
        parts_.backend->kind() == DeviceKind::Cpu || stream != nullptr || !c.window.shares_device,
        ShapeMismatch,
        "dispatch: stream=default, several ranks on one device need a stream each. "
        "Pass one made with cudaStreamNonBlocking.");
  }

  // An operation that tells and waits: as a whole, unless the host orders it.
  template <class Meeting>
  void in_parts(Meeting meeting, CUstream_st* stream) const {
    Ops& ops = parts_.ops();
    if (!parts_.options.host_ordered) return ops.run(meeting, stream);
    meeting.part = PeerMeet::Signal;
    ops.run(meeting, stream);
    order_by_host(meeting.status, stream);
    meeting.part = PeerMeet::Wait;
    ops.run(meeting, stream);
  }

  // The slices of a tensor-parallel group's ranks -> dst, all T tokens.
  void gather_slices(const Connection& c, Tensor dst, Tensor status, CUstream_st* stream) const {
    const int tp_size = parts_.options.tp_size, first = parts_.rank() / tp_size * tp_size;
    in_parts(MeetPeers{.window = c.window,
                       .phase = PeerPhase::Slices,
                       .first = first,
                       .num = tp_size,
                       .status = status},
             stream);
    parts_.ops().run(PullSlices{c.window, dst, c.buffers.output_slice, first, tp_size, status},
                     stream);
  }

 private:
  // For tools that run one kernel at a time: no kernel waits for what is not there.
  void order_by_host(Tensor status, CUstream_st* stream) const {
    int32_t word = 0;
    parts_.backend->memory().read_back(&word, status.rows(0, 1), stream);
    meet(parts_.communicator);
  }

  const DispatcherParts& parts_;
  std::deque<Connection> all_;  // calls point at their windows
};

}  // namespace switchyard
