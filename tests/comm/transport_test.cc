// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/transport_test.cc -- a communicator over a transport that this test is.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "comm/byte_transport.h"
#include "fuzz/peer_bytes.h"

namespace switchyard {
namespace {

// What two ranks have sent each other and not yet received.
struct Wires {
  std::mutex mutex;
  std::deque<std::byte> to[2];
};

// Bytes leave a rank's memory late, as a long message of MPI does: not before they were received
// and asked for a few times more.
class LateTransport final : public ByteTransport {
 public:
  LateTransport(Wires& wires, int rank, std::atomic<bool>& has_all_left)
      : wires_(wires), rank_(rank), has_all_left_(has_all_left) {}

  int rank() const override { return rank_; }
  int size() const override { return 2; }
  const char* name() const override { return "test"; }

  int64_t send(int peer, std::span<const std::byte> bytes) override {
    const std::lock_guard lock(wires_.mutex);
    wires_.to[peer].insert(wires_.to[peer].end(), bytes.begin(), bytes.end());
    num_asked_ = 0;
    has_all_left_ = false;
    return static_cast<int64_t>(bytes.size());
  }
  int64_t receive(int, std::span<std::byte> bytes) override {
    const std::lock_guard lock(wires_.mutex);
    auto& from = wires_.to[rank_];
    const size_t num = std::min(bytes.size(), from.size());
    const auto end = from.begin() + static_cast<std::ptrdiff_t>(num);
    std::copy(from.begin(), end, bytes.begin());
    from.erase(from.begin(), end);
    return static_cast<int64_t>(num);
  }
  bool has_left(int peer) override {
    const std::lock_guard lock(wires_.mutex);
    if (wires_.to[peer].empty() && ++num_asked_ > 3) has_all_left_ = true;
    return has_all_left_;
  }
  void wait(std::span<const Wanted>, std::chrono::milliseconds) override {
    std::this_thread::yield();
  }
  void notify(const std::string&) noexcept override {}
  std::optional<Notice> notice() override { return {}; }

 private:
  Wires& wires_;
  const int rank_;
  std::atomic<bool>& has_all_left_;
  int num_asked_ = 0;
};

TEST(TransportComm, ReturnsOnceWhatItSentHasLeft) {
  constexpr int64_t kWords = 5000;
  for (int repeat = 0; repeat < 20; ++repeat) {
    Wires wires;
    std::atomic<bool> has_left[2] = {true, true};
    const auto rank = [&](int r) {
      const auto comm = make_transport_comm(std::make_unique<LateTransport>(wires, r, has_left[r]),
                                            std::chrono::seconds(30));
      std::vector<int32_t> mine(kWords, r + 7), all(2 * kWords);
      comm->all_gather(Tensor(all.data(), {2, kWords}), ConstTensor(mine.data(), {kWords}),
                       nullptr);
      EXPECT_TRUE(has_left[r]) << "rank " << r << " could end while a peer still needs it";
      EXPECT_EQ(all.front(), 7);
      EXPECT_EQ(all.back(), 8);
    };
    std::thread other(rank, 1);
    rank(0);
    other.join();
  }
}

// What an honest peer sends in run_operations of fuzz/peer_bytes.h.
std::vector<std::byte> honest_peer() {
  struct Head {
    uint64_t comm_id, sequence;
    uint32_t op, num_kinds;
    uint64_t bytes;
  };
  std::vector<std::byte> script;
  const auto say = [&](const Head& head, std::vector<int32_t> words) {
    const auto bytes = std::as_bytes(std::span(words));
    const auto start = std::as_bytes(std::span(&head, 1));
    script.insert(script.end(), start.begin(), start.end());
    script.insert(script.end(), bytes.begin(), bytes.end());
  };
  say({1, 1, 1, 1, 8}, {3, 4});
  say({1, 2, 2, 1, 24}, {5, 6, 7, 8, 9, 10});
  say({1, 3, 3, 1, 4}, {3});
  return script;
}

TEST(TransportComm, APeerThatSendsAnythingWritesNothingOutside) {
  const auto script = honest_peer();
  ASSERT_EQ(fuzz::run_operations(script), 3);
  std::mt19937_64 random(1);
  int num_refused = 0;
  for (int i = 0; i < 3000; ++i) {
    auto damaged = script;
    for (uint64_t change = random() % 4; change < 4; ++change)
      damaged[random() % damaged.size()] = std::byte(random());
    if (random() % 4 == 0) damaged.resize(random() % damaged.size());
    num_refused += fuzz::run_operations(damaged) < 3;
  }
  EXPECT_GT(num_refused, 1000);  // others changed rows alone
}

TEST(TransportComm, AnAbsurdSizeIsRefusedByWhatWasAgreed) {
  auto script = honest_peer();
  const uint64_t absurd = uint64_t{1} << 62;
  std::memcpy(script.data() + 24, &absurd, sizeof absurd);
  try {
    std::array<int32_t, 4> all{};
    const std::array<int32_t, 2> mine{1, 2};
    make_transport_comm(std::make_unique<fuzz::ScriptedPeer>(script), std::chrono::seconds(1))
        ->all_gather(Tensor(all.data(), {2, 2}), ConstTensor(mine.data(), {2}), nullptr);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).find("all_gather: rank 1 sent 4611686018427387904 bytes"), 0u)
        << e.what();
  }
}

}  // namespace
}  // namespace switchyard
