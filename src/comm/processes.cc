// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/processes.cc -- ranks are processes that find each other through a table of addresses:
// gathered by the host program, or at MASTER_ADDR. Two connections per pair of ranks, so that a
// notice passes a message that is stuck half-way.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/as_error.h"
#include "base/require.h"
#include "comm/byte_transport.h"
#include "comm/handshake.h"
#include "comm/nonce.h"
#include "comm/rendezvous.h"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* kSecretVariable = "SWITCHYARD_SECRET";

// Where a rank listens. Plain bytes: it crosses processes.
struct Address {
  char host[256] = {};  // more than a name can have
  uint64_t port = 0;
  uint64_t token = 0;  // see Place
};

struct Peer {
  Socket data, notice;
};

class SocketTransport final : public ByteTransport {
 public:
  SocketTransport(int rank, std::vector<Peer> peers)
      : rank_(rank),
        peers_(std::move(peers)),
        was_notified_(peers_.size()),
        polled_(2 * peers_.size()),
        polled_beside_(peers_.size() + 1) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(peers_.size()); }
  const char* name() const override { return "processes"; }

  int64_t send(int peer, std::span<const std::byte> bytes) override {
    return result_of(::send(peer_at(peer).data.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
  }
  int64_t receive(int peer, std::span<std::byte> bytes) override {
    const auto n = recv(peer_at(peer).data.fd(), bytes.data(), bytes.size(), 0);
    return n == 0 ? kLeft : result_of(n);
  }

  void wait(std::span<const Wanted> wanted, milliseconds limit) override {
    for (size_t p = 0; p < peers_.size(); ++p) {
      const Peer& peer = peers_[p];
      const auto events =
          static_cast<short>((wanted[p].send ? POLLOUT : 0) | (wanted[p].receive ? POLLIN : 0));
      polled_[2 * p] = {events ? peer.data.fd() : -1, events, 0};
      polled_[2 * p + 1] = {notice_fd(p), POLLIN, 0};
    }
    poll(polled_.data(), polled_.size(), static_cast<int>(std::max<int64_t>(1, limit.count())));
  }

  void notify(const std::string& reason) noexcept override {
    char text[kNoticeBytes] = {};
    reason.copy(text, kNoticeBytes - 1);
    // One small message per connection: it fits the empty buffer of the socket.
    for (const Peer& peer : peers_)
      if (peer.notice.open()) (void)::send(peer.notice.fd(), text, sizeof text, MSG_NOSIGNAL);
  }

  std::optional<Notice> notice() override {
    for (size_t p = 0; p < peers_.size(); ++p) {
      const int fd = notice_fd(p);
      if (fd < 0) continue;
      char text[kNoticeBytes];
      const auto n = recv(fd, text, sizeof text, 0);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;  // nothing yet
      was_notified_[p] = true;
      if (n <= 0) return Notice{static_cast<int>(p), {}};
      text[n - 1] = '\0';
      return Notice{static_cast<int>(p), text};
    }
    return {};
  }

  bool wait_for_notice(int stop) override {
    for (size_t p = 0; p < peers_.size(); ++p) polled_beside_[p] = {notice_fd(p), POLLIN, 0};
    polled_beside_.back() = {stop, POLLIN, 0};
    int ready = -1;
    do {
      ready = poll(polled_beside_.data(), polled_beside_.size(), -1);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 && polled_beside_.back().revents == 0;
  }

 private:
  Peer& peer_at(int peer) { return peers_[peer]; }
  static int64_t result_of(ssize_t n) {
    if (n >= 0) return n;
    return errno == EAGAIN || errno == EINTR ? 0 : kLeft;
  }

  // -1 where nothing more will be heard.
  int notice_fd(size_t peer) const { return was_notified_[peer] ? -1 : peers_[peer].notice.fd(); }

  int rank_;
  std::vector<Peer> peers_;
  std::vector<std::atomic<bool>> was_notified_;  // by peer
  std::vector<pollfd> polled_, polled_beside_;
};

Place place_of(const Address& address, uint32_t rank) {
  return {address.host, static_cast<uint16_t>(address.port), address.token, rank};
}

// Connects to all lower ranks and is connected to by all higher ones.
std::vector<Peer> connect_all(const Membership& me, const std::vector<Address>& table,
                              Listener listener, Deadline deadline) {
  std::vector<Peer> peers(table.size());
  for (uint32_t p = 0; p < me.rank; ++p) {
    const Place place = place_of(table[p], p);
    peers[p].data = join_rank(place, me, Channel::Data, {}, deadline);
    peers[p].notice = join_rank(place, me, Channel::Notice, {}, deadline);
  }
  Reception reception(std::move(listener), me, table[me.rank].token,
                      {.first_rank = me.rank + 1, .num_channels = 2});
  reception.await_all(deadline);
  for (uint32_t p = me.rank + 1; p < me.size; ++p) {
    peers[p].data = std::move(reception.connection(p, Channel::Data));
    peers[p].notice = std::move(reception.connection(p, Channel::Notice));
  }
  return peers;
}

void check_rank(int rank, int size, milliseconds deadline) {
  SWITCHYARD_REQUIRE(size >= 1 && size <= 4096 && rank >= 0 && rank < size, ShapeMismatch,
                     "make_process_rank: rank=", rank, " of ", size,
                     ", need a rank of 0 to size-1 and 1 to 4096 ranks.");
  check_deadline("make_process_rank", deadline);
}

int64_t number_from(const char* variable, int64_t low, int64_t high) {
  const char* text = std::getenv(variable);
  SWITCHYARD_REQUIRE(text != nullptr, Transport, "make_process_rank: ", variable,
                     " is not set. Start the ranks with torchrun, or set RANK, WORLD_SIZE, "
                     "MASTER_ADDR and MASTER_PORT.");
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  SWITCHYARD_REQUIRE(parsed.ec == std::errc() && parsed.ptr == end && value >= low && value <= high,
                     Transport, "make_process_rank: ", variable, "=", text, ", need ", low, " to ",
                     high, ".");
  return value;
}

// Gathers at rank 0, which listens beside the launcher's own port, and hands the whole to all.
class MasterGather {
 public:
  MasterGather(Membership me, std::string host, uint16_t port, Deadline deadline)
      : me_(std::move(me)), master_{std::move(host), port, 0, 0}, deadline_(deadline) {
    if (me_.rank == 0 && me_.size > 1) listener_ = listen_at(master_.host, master_.port, deadline_);
  }

  // As peers reach this process.
  std::string address() const {
    return me_.rank == 0 ? master_.host : address_towards(master_.host, deadline_);
  }

  void operator()(void* all, const void* mine, size_t bytes) {
    const std::span table(static_cast<std::byte*>(all), bytes * me_.size);
    const std::span own(static_cast<const std::byte*>(mine), bytes);
    if (me_.rank != 0) {
      const Socket master = join_rank(master_, me_, Channel::Data, own, deadline_);
      return receive_all(master, table, deadline_, "rank 0");
    }
    std::ranges::copy(own, table.begin());
    if (me_.size == 1) return;
    Reception ranks(std::move(listener_), me_, 0, {.payload_bytes = bytes});
    ranks.await_all(deadline_);
    for (uint32_t r = 1; r < me_.size; ++r)
      std::ranges::copy(ranks.payload(r), table.subspan(r * bytes).begin());
    for (uint32_t r = 1; r < me_.size; ++r)
      send_all(ranks.connection(r, Channel::Data), table, deadline_, cat("rank ", r));
  }

 private:
  Membership me_;
  Place master_;
  Deadline deadline_;
  Listener listener_;
};

// The first of these variables that is set; empty without one.
std::string first_of(std::initializer_list<const char*> variables) {
  for (const char* variable : variables)
    if (const char* text = std::getenv(variable); text != nullptr && *text != '\0') return text;
  return {};
}

std::unique_ptr<Communicator> connect_rank(int rank, int size, const GatherCallback& gather,
                                           const ProcessRankOptions& options) {
  check_rank(rank, size, options.deadline);
  Address mine;
  SWITCHYARD_REQUIRE(!options.address.empty() && options.address.size() < sizeof mine.host,
                     ShapeMismatch, "make_process_rank: address has ", options.address.size(),
                     " characters, need 1 to ", sizeof mine.host - 1, ". Shorten it.");
  Listener listener = listen_at(options.address, 0, Clock::now() + options.deadline);
  options.address.copy(mine.host, sizeof mine.host - 1);
  mine.port = listener.port;
  mine.token = draw_nonce();
  std::vector<Address> table(size);
  gather(table.data(), &mine, sizeof mine);
  for (Address& address : table) address.host[sizeof address.host - 1] = '\0';
  const Membership me{static_cast<uint32_t>(rank), static_cast<uint32_t>(size), options.job,
                      options.secret};
  return make_transport_comm(
      std::make_unique<SocketTransport>(
          rank, connect_all(me, table, std::move(listener), Clock::now() + options.deadline)),
      options.deadline);
}

// As its environment says.
std::unique_ptr<Communicator> connect_rank(const ProcessRankOptions& options) {
  const auto size = static_cast<int>(number_from("WORLD_SIZE", 1, 4096));
  const auto rank = static_cast<int>(number_from("RANK", 0, size - 1));
  const std::string host = first_of({"MASTER_ADDR"});
  SWITCHYARD_REQUIRE(!host.empty(), Transport,
                     "make_process_rank: MASTER_ADDR is not set. It is the machine of rank 0.");
  // The launcher itself may listen at MASTER_PORT.
  const auto port = static_cast<uint16_t>(number_from("MASTER_PORT", 1, 65534) + 1);
  check_rank(rank, size, options.deadline);
  ProcessRankOptions here = options;
  if (here.job.empty())
    here.job = first_of({"SWITCHYARD_JOB", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"});
  if (here.secret.empty()) here.secret = first_of({kSecretVariable});
  MasterGather gather(
      {static_cast<uint32_t>(rank), static_cast<uint32_t>(size), here.job, here.secret}, host, port,
      Clock::now() + options.deadline);
  here.address = gather.address();
  return connect_rank(rank, size, std::ref(gather), here);
}

}  // namespace

std::unique_ptr<Communicator> make_process_rank(int rank, int size, const GatherCallback& gather,
                                                const ProcessRankOptions& options) {
  return as_errors("make_process_rank", [&] { return connect_rank(rank, size, gather, options); });
}

std::unique_ptr<Communicator> make_process_rank(const ProcessRankOptions& options) {
  return as_errors("make_process_rank", [&] { return connect_rank(options); });
}

std::string process_rank_warning() {
  const std::string host = first_of({"MASTER_ADDR"});
  if (host.empty() || !first_of({kSecretVariable}).empty() || is_loopback(host)) return {};
  return cat("ranks meet at MASTER_ADDR=", host, " and ", kSecretVariable,
             " is not set: whoever reaches that network may pose as a rank. Give every rank the "
             "same random text.");
}

}  // namespace switchyard
