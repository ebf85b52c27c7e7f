// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/byte_transport.h -- what sockets and MPI have in common: ordered bytes between this rank
// and every other one, moved without blocking, and a short notice beside them; and the communicator
// over them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "switchyard/communicator.h"

namespace switchyard {

class ByteTransport {
 public:
  static constexpr int64_t kLeft = -1;          // the peer's process ended or closed the connection
  static constexpr size_t kNoticeBytes = 1024;  // a longer notice is cut

  // What a rank waits for from one peer.
  struct Wanted {
    bool send = false;
    bool receive = false;
  };

  virtual ~ByteTransport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const char* name() const = 0;  // "processes", "mpi"

  // Move what can move now: the number of bytes, 0 if none can, or kLeft.
  virtual int64_t send(int peer, std::span<const std::byte> bytes) = 0;
  virtual int64_t receive(int peer, std::span<std::byte> bytes) = 0;
  // Whether what was sent to the peer has left this rank's memory: it arrives even if this rank ends
  // now.
  virtual bool has_left(int peer) {
    (void)peer;
    return true;
  }
  // Returns when something wanted or a notice may have come, at the latest after `limit`.
  virtual void wait(std::span<const Wanted> wanted, std::chrono::milliseconds limit) = 0;

  // Tells every peer why this rank gives up; also one that is in the middle of a message.
  virtual void notify(const std::string& reason) noexcept = 0;
  // The next thing that was heard beside the messages, once per peer.
  struct Notice {
    int peer = 0;
    std::optional<std::string> reason;  // why the peer gives up; none: it left
  };
  virtual std::optional<Notice> notice() = 0;
  // True once there may be a notice, false once `stop` is readable or where no thread can wait
  // beside other calls. The one function that another thread may be in.
  virtual bool wait_for_notice(int stop) {
    (void)stop;
    return false;
  }
};

std::unique_ptr<Communicator> make_transport_comm(std::unique_ptr<ByteTransport> transport,
                                                  std::chrono::milliseconds deadline);

}  // namespace switchyard
