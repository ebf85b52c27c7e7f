// src/comm/sockets.h -- TCP sockets that close themselves, and the few calls that ranks need.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>

#include "base/file_descriptor.h"

namespace switchyard {

using Deadline = std::chrono::steady_clock::time_point;

using Socket = FileDescriptor;

// A TCP port of this machine, IPv4.
struct Listener {
  Socket socket;
  uint16_t port = 0;
};

// All throw Error(Transport) that says what failed, for whom and why; `who` is "rank 2", ....
// Listens at `address` (a local one, or "" for all) and `port` (0: any free one).
Listener listen_at(const std::string& address, uint16_t port);
// Tries until the deadline: the other side may not listen yet.
Socket connect_to(const std::string& host, uint16_t port, Deadline deadline,
                  const std::string& who);
Socket accept_from(const Listener& listener, Deadline deadline, const std::string& who);
void send_all(const Socket& socket, std::span<const std::byte> bytes, Deadline deadline,
              const std::string& who);
void receive_all(const Socket& socket, std::span<std::byte> bytes, Deadline deadline,
                 const std::string& who);
// This machine's address on the way to the peer.
std::string own_address(const Socket& socket);

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}
template <class T>
std::span<std::byte> writable_bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace switchyard
