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
#include <random>
#include <vector>

#include "base/require.h"
#include "comm/byte_transport.h"
#include "comm/handshake.h"
#include "comm/sockets.h"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Where a rank listens. Plain bytes: it crosses processes.
struct Address {
  char host[64] = {};
  uint16_t port = 0;
  uint64_t nonce = 0;  // known only to this communicator's ranks, so that strangers are turned away
};

enum class Channel : uint32_t { Data = 0, Notice = 1 };

struct Hello {
  uint64_t nonce = 0;  // of the listener
  uint32_t rank = 0;
  Channel channel = Channel::Data;
};

struct Peer {
  Socket data, notice;
};

std::string name_of(size_t rank) {
  return cat("rank ", rank);
}

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

// Connects to all lower ranks and is connected to by all higher ones.
std::vector<Peer> connect_all(int rank, const std::vector<Address>& table, const Listener& listener,
                              Deadline deadline) {
  std::vector<Peer> peers(table.size());
  const auto me = static_cast<size_t>(rank);
  for (size_t p = 0; p < me; ++p)
    for (const Channel channel : {Channel::Data, Channel::Notice}) {
      Socket socket = connect_to(table[p].host, table[p].port, deadline, name_of(p));
      const Hello hello{table[p].nonce, static_cast<uint32_t>(rank), channel};
      send_all(socket, bytes_of(hello), deadline, name_of(p));
      (channel == Channel::Data ? peers[p].data : peers[p].notice) = std::move(socket);
    }
  for (size_t missing = 2 * (table.size() - me - 1); missing > 0;) {
    Socket socket = accept_from(listener, deadline, "a higher rank");
    Hello hello;
    try {
      receive_all(socket, writable_bytes_of(hello), deadline, "a connection");
    } catch (const Error&) {
      continue;  // a stranger
    }
    if (hello.nonce != table[me].nonce || hello.rank <= me || hello.rank >= table.size()) continue;
    Peer& peer = peers[hello.rank];
    Socket& place = hello.channel == Channel::Data ? peer.data : peer.notice;
    if (place.open()) continue;
    place = std::move(socket);
    --missing;
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
  MasterGather(int rank, int size, std::string host, uint16_t port, Deadline deadline)
      : rank_(rank),
        size_(static_cast<size_t>(size)),
        host_(std::move(host)),
        port_(port),
        deadline_(deadline) {
    if (rank == 0) {
      listener_ = listen_at("", port);
    } else {
      master_ = connect_to(host_, port_, deadline_, "rank 0");
      address_ = own_address(master_);
    }
  }

  // As peers reach this process.
  std::string address() const { return rank_ == 0 ? host_ : address_; }

  void operator()(void* all, const void* mine, size_t bytes) {
    auto* table = static_cast<std::byte*>(all);
    if (rank_ != 0) {
      const auto rank = static_cast<uint32_t>(rank_);
      send_all(master_, bytes_of(kMagic), deadline_, "rank 0");
      send_all(master_, bytes_of(rank), deadline_, "rank 0");
      send_all(master_, {static_cast<const std::byte*>(mine), bytes}, deadline_, "rank 0");
      receive_all(master_, {table, bytes * size_}, deadline_, "rank 0");
      return;
    }
    std::memcpy(table, mine, bytes);
    std::vector<Socket> ranks(size_);
    for (size_t missing = size_ - 1; missing > 0;) {
      Socket socket = accept_from(listener_, deadline_, cat(missing, " of ", size_ - 1, " ranks"));
      uint64_t magic = 0;
      uint32_t rank = 0;
      try {
        receive_all(socket, writable_bytes_of(magic), deadline_, "a connection");
        if (magic != kMagic) continue;
        receive_all(socket, writable_bytes_of(rank), deadline_, "a connection");
      } catch (const Error&) {
        continue;  // a stranger
      }
      if (rank == 0 || rank >= size_ || ranks[rank].open()) continue;
      receive_all(socket, {table + rank * bytes, bytes}, deadline_, name_of(rank));
      ranks[rank] = std::move(socket);
      --missing;
    }
    for (size_t r = 1; r < size_; ++r)
      send_all(ranks[r], {table, bytes * size_}, deadline_, name_of(r));
  }

 private:
  static constexpr uint64_t kMagic = 0x3144524159485753;  // "SWHYARD1"

  int rank_;
  size_t size_;
  std::string host_;
  uint16_t port_;
  Deadline deadline_;
  Listener listener_;
  Socket master_;
  std::string address_;
};

}  // namespace

std::unique_ptr<Communicator> make_process_rank(int rank, int size, const GatherCallback& gather,
                                                const ProcessRankOptions& options) {
  check_rank(rank, size, options.deadline);
  SWITCHYARD_REQUIRE(options.address.size() < sizeof(Address::host), ShapeMismatch,
                     "make_process_rank: address has ", options.address.size(),
                     " characters, at most ", sizeof(Address::host) - 1, ".");
  const bool is_local = options.address == "127.0.0.1" || options.address == "localhost";
  const Listener listener = listen_at(is_local ? options.address : "", 0);
  std::random_device random;
  Address mine{{}, listener.port, uint64_t{random()} << 32 | random()};
  std::memcpy(mine.host, options.address.data(), options.address.size());
  std::vector<Address> table(size);
  gather(table.data(), &mine, sizeof mine);
  for (Address& address : table) address.host[sizeof address.host - 1] = '\0';
  const Deadline deadline = Clock::now() + options.deadline;
  return make_transport_comm(
      std::make_unique<SocketTransport>(rank, connect_all(rank, table, listener, deadline)),
      options.deadline);
}

std::unique_ptr<Communicator> make_process_rank(const ProcessRankOptions& options) {
  const auto size = static_cast<int>(number_from("WORLD_SIZE", 1, 4096));
  const auto rank = static_cast<int>(number_from("RANK", 0, size - 1));
  const char* host = std::getenv("MASTER_ADDR");
  SWITCHYARD_REQUIRE(host != nullptr && *host != '\0', Transport,
                     "make_process_rank: MASTER_ADDR is not set. It is the machine of rank 0.");
  // The launcher itself may listen at MASTER_PORT.
  const auto port = static_cast<uint16_t>(number_from("MASTER_PORT", 1, 65534) + 1);
  check_rank(rank, size, options.deadline);
  MasterGather gather(rank, size, host, port, Clock::now() + options.deadline);
  ProcessRankOptions here = options;
  here.address = gather.address();
  return make_process_rank(rank, size, std::ref(gather), here);
}

}  // namespace switchyard
