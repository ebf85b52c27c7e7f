// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/sockets.cc
#include "comm/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "base/require.h"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

// Whether the socket became ready before the deadline.
bool wait_for(const Socket& socket, short events, Deadline deadline) {
  pollfd p{socket.fd(), events, 0};
  while (true) {
    const int n = poll(&p, 1, milliseconds_left(deadline));
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

void tune(const Socket& socket) {
  fcntl(socket.fd(), F_SETFL, fcntl(socket.fd(), F_GETFL) | O_NONBLOCK);
  const int on = 1;  // a header of 32 bytes must not wait for more
  setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

// Null where the name is not known now; `why` then says why.
Addresses resolve(const std::string& host, uint16_t port, std::string& why) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (error == 0) return Addresses(list);
  why = cat("cannot resolve the name (", error == EAI_SYSTEM ? errno_text() : gai_strerror(error),
            ")");
  return nullptr;
}

Addresses resolve_until(const std::string& host, uint16_t port, Deadline deadline,
                        std::string& why) {
  Addresses addresses = resolve(host, port, why);
  while (!addresses && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    addresses = resolve(host, port, why);
  }
  return addresses;
}

struct Endpoint {
  sockaddr_storage address{};
  socklen_t size = sizeof address;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
  bool operator==(const Endpoint& other) const {
    return size == other.size && std::memcmp(&address, &other.address, size) == 0;
  }
  std::string host() const {
    char text[NI_MAXHOST] = "";
    getnameinfo(get(), size, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
    return text;
  }
  uint16_t port() const {
    return ntohs(address.ss_family == AF_INET6
                     ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                     : reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
  }
};

Endpoint endpoint_of(const Socket& socket, decltype(getsockname)* side) {
  Endpoint e;
  side(socket.fd(), reinterpret_cast<sockaddr*>(&e.address), &e.size);
  return e;
}

// While nobody listens at a free port of this machine, TCP may connect a socket to itself.
bool is_connected_to_itself(const Socket& socket) {
  return endpoint_of(socket, getsockname) == endpoint_of(socket, getpeername);
}

Socket connect_at(const addrinfo& address, Deadline deadline) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.open()) return {};
  tune(socket);
  if (connect(socket.fd(), address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return {};
    int error = ETIMEDOUT;
    socklen_t size = sizeof error;
    if (wait_for(socket, POLLOUT, deadline))
      getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    errno = error;
    if (error != 0) return {};
  }
  if (!is_connected_to_itself(socket)) return socket;
  errno = ECONNREFUSED;
  return {};
}

Socket bind_at(const addrinfo& address) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.ai_family == AF_INET6)
    setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  const bool listens = socket.open() &&
                       bind(socket.fd(), address.ai_addr, address.ai_addrlen) == 0 &&
                       listen(socket.fd(), SOMAXCONN) == 0;
  return listens ? std::move(socket) : Socket();
}

}  // namespace

int milliseconds_left(Deadline deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
}

std::string place_text(const std::string& host, uint16_t port) {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return is_ipv6 ? cat("[", host, "]:", port) : cat(host, ":", port);
}

void refuse(const std::string& what, const std::string& why) {
  throw Error(Errc::Transport,
              cat("communicator: ", what, ": ", why,
                  ". Check that every rank runs, and MASTER_ADDR, MASTER_PORT and firewalls."));
}

Listener listen_at(const std::string& address, uint16_t port, Deadline deadline) {
  std::string why;
  const Addresses addresses = resolve_until(address, port, deadline, why);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    Listener listener{bind_at(*a), {}, 0};
    if (!listener.socket.open()) {
      why = errno_text();
      continue;
    }
    tune(listener.socket);
    const Endpoint bound = endpoint_of(listener.socket, getsockname);
    listener.port = bound.port();
    listener.place = place_text(bound.host(), listener.port);
    return listener;
  }
  refuse(
      cat("cannot listen at ", place_text(address, port)),
      cat(why, "; it must be an address of this machine, the port free of other ranks and jobs"));
}

Socket try_connect(const std::string& host, uint16_t port, Deadline deadline, std::string& why) {
  constexpr std::chrono::seconds kPatience(2);  // with an address that does not answer
  const Addresses addresses = resolve(host, port, why);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    Socket socket = connect_at(*a, std::min(deadline, Clock::now() + kPatience));
    if (socket.open()) return socket;
    why = errno_text();
  }
  return {};
}

Socket try_accept(const Listener& listener) {
  Socket socket(accept4(listener.socket.fd(), nullptr, nullptr, SOCK_CLOEXEC));
  if (socket.open()) tune(socket);
  return socket;
}

void send_all(const Socket& socket, std::span<const std::byte> bytes, Deadline deadline,
              const std::string& who) {
  while (!bytes.empty()) {
    const auto n = send(socket.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0)
      bytes = bytes.subspan(static_cast<size_t>(n));
    else if (errno != EAGAIN && errno != EINTR)
      refuse(cat("cannot send to ", who), errno_text());
    else if (!wait_for(socket, POLLOUT, deadline))
      refuse(cat("cannot send to ", who), "the deadline is over");
  }
}

void receive_all(const Socket& socket, std::span<std::byte> bytes, Deadline deadline,
                 const std::string& who) {
  while (!bytes.empty()) {
    const auto n = recv(socket.fd(), bytes.data(), bytes.size(), 0);
    if (n > 0)
      bytes = bytes.subspan(static_cast<size_t>(n));
    else if (n == 0)
      refuse(cat("cannot hear from ", who), "it closed the connection");
    else if (errno != EAGAIN && errno != EINTR)
      refuse(cat("cannot hear from ", who), errno_text());
    else if (!wait_for(socket, POLLIN, deadline))
      refuse(cat("cannot hear from ", who), "it did not come within the deadline");
  }
}

std::string address_towards(const std::string& host, Deadline deadline) {
  std::string why;
  const Addresses addresses = resolve_until(host, 1, deadline, why);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const Socket socket(::socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));  // sends nothing
    if (socket.open() && connect(socket.fd(), a->ai_addr, a->ai_addrlen) == 0)
      return endpoint_of(socket, getsockname).host();
    why = errno_text();
  }
  refuse(cat("no way to ", host), why);
}
std::string peer_address(const Socket& socket) {
  return endpoint_of(socket, getpeername).host();
}

bool is_loopback(const std::string& host) {
  std::string why;
  const Addresses addresses = resolve(host, 0, why);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(a->ai_addr);
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(a->ai_addr);
    const bool is_here = a->ai_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr)
                                                  : ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    if (!is_here) return false;
  }
  return addresses != nullptr;
}

}  // namespace switchyard
