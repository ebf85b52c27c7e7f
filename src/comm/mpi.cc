// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/mpi.cc -- bytes over MPI messages of at most 64 KiB. The only file that knows
// MPI.
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "base/as_error.h"
#include "base/require.h"
#include "comm/byte_transport.h"
#include "comm/handshake.h"

namespace switchyard {
namespace {

constexpr int kDataTag = 1, kNoticeTag = 2;
constexpr size_t kMessageBytes = size_t{64} << 10;

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(Errc::Transport, cat("mpi: ", call, ": ", text, "."));
}

// MPI runs from the first communicator to the end of the process.
void initialize() {
  int done = 0;
  check(MPI_Initialized(&done), "MPI_Initialized");
  if (!done) {
    int provided = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
    std::atexit([] {
      int finalized = 0;
      if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized) MPI_Finalize();
    });
  }
  check(MPI_Finalized(&done), "MPI_Finalized");
  SWITCHYARD_REQUIRE(!done, Transport,
                     "make_mpi_rank: MPI was finalized. Make the communicator before.");
}

struct Peer {
  std::vector<std::byte> out = std::vector<std::byte>(kMessageBytes);
  std::vector<std::byte> in = std::vector<std::byte>(kMessageBytes);
  MPI_Request sending = MPI_REQUEST_NULL;
  size_t in_size = 0, in_done = 0;  // of `in`: received, handed out
};

class MpiTransport final : public ByteTransport {
 public:
  MpiTransport() {
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    peers_.resize(size_);
    notices_.assign(size_, MPI_REQUEST_NULL);
  }
  ~MpiTransport() override {
    for (Peer& peer : peers_) let_go(peer.sending);
    for (MPI_Request& request : notices_) let_go(request);
    MPI_Comm_free(&comm_);
  }
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const char* name() const override { return "mpi"; }

  int64_t send(int to, std::span<const std::byte> bytes) override {
    if (!has_left(to)) return 0;
    Peer& peer = peers_[to];
    const size_t num = std::min(bytes.size(), kMessageBytes);
    std::memcpy(peer.out.data(), bytes.data(), num);
    check(MPI_Isend(peer.out.data(), static_cast<int>(num), MPI_BYTE, to, kDataTag, comm_,
                    &peer.sending),
          "MPI_Isend");
    return static_cast<int64_t>(num);
  }

  // MPI reads a long message out of `out` when its receiver comes.
  bool has_left(int to) override {
    int sent = 0;
    check(MPI_Test(&peers_[to].sending, &sent, MPI_STATUS_IGNORE), "MPI_Test");
    return sent != 0;
  }

  int64_t receive(int from, std::span<std::byte> bytes) override {
    Peer& peer = peers_[from];
    if (peer.in_done == peer.in_size && !receive_message(from, peer)) return 0;
    const size_t num = std::min(bytes.size(), peer.in_size - peer.in_done);
    std::memcpy(bytes.data(), peer.in.data() + peer.in_done, num);
    peer.in_done += num;
    return static_cast<int64_t>(num);
  }

  // MPI cannot sleep until one of several things happens; a short sleep leaves the core to ranks
  // that share it.
  void wait(std::span<const Wanted>, std::chrono::milliseconds) override {
    if (++idle_rounds_ < 64) {
      std::this_thread::yield();
      return;
    }
    idle_rounds_ = 0;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

  void notify(const std::string& reason) noexcept override {
    notice_.fill('\0');
    std::memcpy(notice_.data(), reason.data(), std::min(reason.size(), notice_.size() - 1));
    for (int p = 0; p < size_; ++p)
      if (p != rank_)
        MPI_Isend(notice_.data(), static_cast<int>(notice_.size()), MPI_BYTE, p, kNoticeTag, comm_,
                  &notices_[p]);
  }

  std::optional<Notice> notice() override {
    int there = 0;
    MPI_Status status;
    check(MPI_Iprobe(MPI_ANY_SOURCE, kNoticeTag, comm_, &there, &status), "MPI_Iprobe");
    if (!there) return {};
    std::array<char, kNoticeBytes> text;
    check(MPI_Recv(text.data(), static_cast<int>(text.size()), MPI_BYTE, status.MPI_SOURCE,
                   kNoticeTag, comm_, MPI_STATUS_IGNORE),
          "MPI_Recv");
    text.back() = '\0';
    return Notice{status.MPI_SOURCE, text.data()};
  }

 private:
  static void let_go(MPI_Request& request) {
    if (request == MPI_REQUEST_NULL) return;
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (!done) MPI_Cancel(&request), MPI_Request_free(&request);
  }

  bool receive_message(int from, Peer& peer) {
    int there = 0;
    MPI_Status status;
    check(MPI_Iprobe(from, kDataTag, comm_, &there, &status), "MPI_Iprobe");
    if (!there) return false;
    check(MPI_Recv(peer.in.data(), static_cast<int>(peer.in.size()), MPI_BYTE, from, kDataTag,
                   comm_, &status),
          "MPI_Recv");
    int bytes = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    peer.in_size = static_cast<size_t>(bytes);
    peer.in_done = 0;
    return true;
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 0, idle_rounds_ = 0;
  std::vector<Peer> peers_;
  std::array<char, kNoticeBytes> notice_{};
  std::vector<MPI_Request> notices_;
};

}  // namespace

bool has_mpi() noexcept {
  return true;
}

std::unique_ptr<Communicator> make_mpi_rank(std::chrono::milliseconds deadline) {
  check_deadline("make_mpi_rank", deadline);
  return as_errors("make_mpi_rank", [&] {
    initialize();
    return make_transport_comm(std::make_unique<MpiTransport>(), deadline);
  });
}

}  // namespace switchyard
