// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/sockets_test.cc -- what a rank sees of peers that do not answer, leave or say nothing.
#include "comm/sockets.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "testing/error_of.h"

namespace switchyard {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Deadline in(milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}

std::string message_of(const std::function<void()>& act) {
  const Error e = testing::error_of(act);
  EXPECT_EQ(e.code(), Errc::Transport);
  return e.what();
}

// Two ends of one connection.
struct Pair {
  Pair() : listener(listen_at("127.0.0.1", 0, in(seconds(10)))) {
    std::string why;
    near = try_connect("127.0.0.1", listener.port, in(seconds(10)), why);
    while (!far.open()) far = try_accept(listener);
  }
  Listener listener;
  Socket near, far;
};

TEST(Sockets, CarryBytesWhole) {
  Pair pair;
  std::vector<std::byte> sent(3'000'001), heard(sent.size());
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = std::byte(i * 31 >> 3);
  std::jthread sends([&] { send_all(pair.near, sent, in(seconds(60)), "rank 1"); });
  receive_all(pair.far, heard, in(seconds(60)), "rank 0");
  EXPECT_EQ(heard, sent);
}

TEST(Sockets, SayWhoDidNotComeOrLeft) {
  Pair pair;
  std::byte one{};
  EXPECT_NE(message_of([&] {
              receive_all(pair.near, {&one, 1}, in(milliseconds(20)), "rank 7");
            }).find("communicator: cannot hear from rank 7: it did not come within the deadline"),
            std::string::npos);
  std::vector<std::byte> too_many(64 << 20);
  EXPECT_NE(message_of([&] {
              send_all(pair.near, too_many, in(milliseconds(20)), "rank 7");
            }).find("communicator: cannot send to rank 7: the deadline is over"),
            std::string::npos);
  pair.far = {};
  pair.near = {};
  Pair other;
  other.far = {};
  EXPECT_NE(message_of([&] {
              receive_all(other.near, {&one, 1}, in(seconds(10)), "rank 8");
            }).find("communicator: cannot hear from rank 8: it closed the connection"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              while (true) send_all(other.near, {&one, 1}, in(seconds(10)), "rank 8");
            }).find("communicator: cannot send to rank 8: "),
            std::string::npos);
  receive_all(other.near, {}, in(milliseconds(0)), "rank 8");  // nothing needs nobody
}

TEST(Sockets, SayWhyNobodyIsReached) {
  Listener gone = listen_at("127.0.0.1", 0, in(seconds(10)));
  const uint16_t port = gone.port;
  gone = {};
  std::string why;
  EXPECT_FALSE(try_connect("127.0.0.1", port, in(seconds(10)), why).open());
  EXPECT_EQ(why, std::strerror(ECONNREFUSED));
  EXPECT_FALSE(try_connect("no.such.name.invalid", port, in(seconds(10)), why).open());
  EXPECT_NE(why.find("cannot resolve the name ("), std::string::npos) << why;
  EXPECT_NE(message_of([&] {
              address_towards("no.such.name.invalid", in(milliseconds(1)));
            }).find("no way to no.such.name.invalid: cannot resolve the name ("),
            std::string::npos);
  EXPECT_EQ(address_towards("127.0.0.1", in(seconds(10))), "127.0.0.1");
}

// Its queue is full: what comes is neither taken nor refused, as behind a firewall.
TEST(Sockets, AnAddressThatDoesNotAnswerIsLeftLongBeforeTheDeadline) {
  const Listener listener = listen_at("127.0.0.1", 0, in(seconds(10)));
  ASSERT_EQ(::listen(listener.socket.fd(), 0), 0);
  std::string why;
  std::vector<Socket> queue;
  const auto start = std::chrono::steady_clock::now();
  do queue.push_back(try_connect("127.0.0.1", listener.port, start + seconds(120), why));
  while (queue.back().open());
  EXPECT_EQ(why, std::strerror(ETIMEDOUT));
  EXPECT_LT(queue.size(), 10u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(60));
}

TEST(Sockets, APortThatIsTakenIsNamed) {
  const Listener first = listen_at("127.0.0.1", 0, in(seconds(10)));
  EXPECT_NE(first.port, 0);
  EXPECT_EQ(first.place, "127.0.0.1:" + std::to_string(first.port));
  EXPECT_NE(
      message_of([&] {
        listen_at("127.0.0.1", first.port, in(seconds(10)));
      }).find("communicator: cannot listen at " + first.place + ": " + std::strerror(EADDRINUSE)),
      std::string::npos);
  EXPECT_NE(message_of([&] {
              listen_at("192.0.2.1", 0, in(seconds(10)));
            }).find("cannot listen at 192.0.2.1:0: " + std::string(std::strerror(EADDRNOTAVAIL))),
            std::string::npos);
}

TEST(Sockets, WriteIPv6InBrackets) {
  EXPECT_EQ(place_text("::1", 7), "[::1]:7");
  EXPECT_EQ(place_text("a.b", 65535), "a.b:65535");
}

TEST(Sockets, CountWhatIsLeftWithoutOverflow) {
  EXPECT_EQ(milliseconds_left(in(milliseconds(-5))), 0);
  EXPECT_EQ(milliseconds_left(Deadline::max()), 1 << 30);
  const int left = milliseconds_left(in(seconds(100)));
  EXPECT_GT(left, 1000);
  EXPECT_LE(left, 100'000);
}

}  // namespace
}  // namespace switchyard
