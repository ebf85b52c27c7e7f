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
#include <memory>
#include <thread>

#include "base/require.h"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void refuse(const std::string& what, const std::string& who, const std::string& why) {
  throw Error(Errc::Transport,
              cat("communicator: ", what, " ", who, ": ", why,
                  ". Check that every rank runs, and MASTER_ADDR, MASTER_PORT and firewalls."));
}

int milliseconds_left(Deadline deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
}

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

Addresses resolve(const std::string& host, uint16_t port, bool passive) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(),
                                &hints, &list);
  if (error != 0)
    refuse("cannot resolve", host.empty() ? "this machine" : host, gai_strerror(error));
  return Addresses(list);
}

// Whether it is connected; a refusal may pass, since the other side may not listen yet.
bool try_connect(Socket& socket, const addrinfo& address, Deadline deadline) {
  socket = Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.open()) return false;
  tune(socket);
  if (connect(socket.fd(), address.ai_addr, address.ai_addrlen) == 0) return true;
  if (errno != EINPROGRESS || !wait_for(socket, POLLOUT, deadline)) return false;
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  errno = error;
  return error == 0;
}

}  // namespace

Listener listen_at(const std::string& address, uint16_t port) {
  const auto addresses = resolve(address, port, /*passive=*/true);
  Listener listener{Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), port};
  const int on = 1;
  const int fd = listener.socket.fd();
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, addresses->ai_addr, addresses->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0)
    refuse("cannot listen at", cat(address.empty() ? "*" : address, ":", port), errno_text());
  sockaddr_in bound{};
  socklen_t size = sizeof bound;
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  listener.port = ntohs(bound.sin_port);
  tune(listener.socket);
  return listener;
}

Socket connect_to(const std::string& host, uint16_t port, Deadline deadline,
                  const std::string& who) {
  const auto addresses = resolve(host, port, /*passive=*/false);
  while (true) {
    Socket socket;
    if (try_connect(socket, *addresses, deadline)) return socket;
    const std::string last = errno_text();
    if (Clock::now() >= deadline)
      refuse("no connection to", cat(who, " at ", host, ":", port), last);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

Socket accept_from(const Listener& listener, Deadline deadline, const std::string& who) {
  while (wait_for(listener.socket, POLLIN, deadline)) {
    Socket socket(accept4(listener.socket.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.open()) continue;  // it went away again
    tune(socket);
    return socket;
  }
  refuse("no connection from", who, "it did not come within the deadline");
}

void send_all(const Socket& socket, std::span<const std::byte> bytes, Deadline deadline,
              const std::string& who) {
  while (!bytes.empty()) {
    const auto n = send(socket.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0)
      bytes = bytes.subspan(static_cast<size_t>(n));
    else if (errno != EAGAIN && errno != EINTR)
      refuse("cannot send to", who, errno_text());
    else if (!wait_for(socket, POLLOUT, deadline))
      refuse("cannot send to", who, "the deadline is over");
  }
}

void receive_all(const Socket& socket, std::span<std::byte> bytes, Deadline deadline,
                 const std::string& who) {
  while (!bytes.empty()) {
    const auto n = recv(socket.fd(), bytes.data(), bytes.size(), 0);
    if (n > 0)
      bytes = bytes.subspan(static_cast<size_t>(n));
    else if (n == 0)
      refuse("cannot hear from", who, "it closed the connection");
    else if (errno != EAGAIN && errno != EINTR)
      refuse("cannot hear from", who, errno_text());
    else if (!wait_for(socket, POLLIN, deadline))
      refuse("cannot hear from", who, "it did not come within the deadline");
  }
}

std::string own_address(const Socket& socket) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  char text[INET_ADDRSTRLEN] = "";
  inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
  return text;
}

}  // namespace switchyard
