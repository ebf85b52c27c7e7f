// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
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

// A TCP port at one address of this machine, IPv4 or IPv6.
struct Listener {
  Socket socket;
  std::string place;  // "127.0.0.1:29501", "[::1]:29501"
  uint16_t port = 0;
};

// "host:port", "[fe80::1]:port".
std::string place_text(const std::string& host, uint16_t port);
// Ends what cannot go on: Error(Transport), "communicator: <what>: <why>. <remedy>".
[[noreturn]] void refuse(const std::string& what, const std::string& why);

// All throw Error(Transport) that says what failed, for whom and why; `who` is "rank 2", ....
// Listens at `address` and nowhere else; port 0: any free one. Until the deadline the name may be
// unknown.
Listener listen_at(const std::string& address, uint16_t port, Deadline deadline);
// One attempt at every address of the host. Not open where there is none; `why` then says why.
Socket try_connect(const std::string& host, uint16_t port, Deadline deadline, std::string& why);
// A connection that waits at the listener; not open where there is none, see errno.
Socket try_accept(const Listener& listener);
void send_all(const Socket& socket, std::span<const std::byte> bytes, Deadline deadline,
              const std::string& who);
void receive_all(const Socket& socket, std::span<std::byte> bytes, Deadline deadline,
                 const std::string& who);
std::string peer_address(const Socket& socket);
// This machine's address on the way to the host. Until the deadline the name may be unknown.
std::string address_towards(const std::string& host, Deadline deadline);
// Whether everything that has this name is this machine alone.
bool is_loopback(const std::string& host);
// Milliseconds for poll, none once the deadline is over.
int milliseconds_left(Deadline deadline);

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}
template <class T>
std::span<std::byte> writable_bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

}  // namespace switchyard
