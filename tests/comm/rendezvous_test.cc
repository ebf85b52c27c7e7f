// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/rendezvous_test.cc -- ranks find each other among strangers, and know whom to refuse.
#include "comm/rendezvous.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <thread>
#include <tuple>

#include "base/require.h"
#include "testing/forked_ranks.h"

namespace switchyard {
namespace {

using std::chrono::milliseconds;
using testing::ForkedRanks;
using testing::free_master_port;
using testing::SharedArray;

Deadline in(milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Transport) << e.what();
    return e.what();
  }
  return "no error";
}

// Rank 0 of two, which listens.
struct Host {
  explicit Host(const Membership& me, uint64_t token = 77)
      : token_(token),
        listener(listen_at("127.0.0.1", 0, in(milliseconds(1000)))),
        port(listener.port),
        reception(std::move(listener), me, token, {.payload_bytes = 4}) {}
  Place place() const { return {"127.0.0.1", port, token_, 0}; }

  uint64_t token_;
  Listener listener;
  uint16_t port;
  Reception reception;
};

constexpr std::array kPayload{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};

// What the caller hears, while rank 0 of `host` waits in vain; and what rank 0 says of it.
std::pair<std::string, std::string> refusals_of(const Membership& host, const Membership& caller,
                                                uint64_t token = 77) {
  Host rank0(host);
  std::string heard, said;
  {
    std::jthread waiting(
        [&] { said = message_of([&] { rank0.reception.await_all(in(milliseconds(300))); }); });
    Place place = rank0.place();
    place.token = token;
    heard = message_of(
        [&] { join_rank(place, caller, Channel::Data, kPayload, in(milliseconds(5000))); });
  }
  return {heard, said};
}

TEST(KeyedDigest, IsThatOfItsPaper) {
  std::array<std::byte, 15> message;
  for (size_t i = 0; i < message.size(); ++i) message[i] = std::byte(i);
  EXPECT_EQ(keyed_digest({0x0706050403020100, 0x0f0e0d0c0b0a0908}, message), 0xa129ca6149be45e5);
  EXPECT_EQ(keyed_digest({0x0706050403020100, 0x0f0e0d0c0b0a0908}, {}), 0x726fdb47dd0e0e31);
}

TEST(Rendezvous, AMemberComesInWithItsPayload) {
  Host rank0({0, 2, "job", "secret"});
  std::jthread caller([&] {
    join_rank(rank0.place(), {1, 2, "job", "secret"}, Channel::Data, kPayload,
              in(milliseconds(5000)));
  });
  rank0.reception.await_all(in(milliseconds(5000)));
  EXPECT_TRUE(std::ranges::equal(rank0.reception.payload(1), kPayload));
}

TEST(Rendezvous, WhoIsNoMemberIsToldWhyAndNamedAtTheDeadline) {
  const Membership rank0{0, 2, "job", "secret"};
  struct Wrong {
    Membership caller;
    const char *heard, *said;
    uint64_t token = 77;
  };
  const Wrong all[] = {
      {{1, 3, "job", "secret"}, "ranks=3 on rank 1, rank 0 at 127.0.0.1:", "of 3 ranks"},
      {{1, 2, "other", "secret"}, "job=other on rank 1, rank 0 at", "of another job"},
      {{0, 2, "job", "secret"}, "rank=0, rank 0 at", "rank 0 from 127.0.0.1 which is not awaited"},
      {{2, 2, "job", "secret"}, "does not await it", "rank 2 from 127.0.0.1 which is not awaited"},
      {{1, 2, "job", "guessed"}, "does not prove that it is one of this job", "SWITCHYARD_SECRET"},
      {{1, 2, "job", ""}, "Set the same SWITCHYARD_SECRET on every rank", "SWITCHYARD_SECRET"},
      {{1, 2, "job", "secret"}, "does not prove", "SWITCHYARD_SECRET", 78},
  };
  for (const Wrong& wrong : all) {
    const auto [heard, said] = refusals_of(rank0, wrong.caller, wrong.token);
    EXPECT_NE(heard.find(wrong.heard), std::string::npos) << heard;
    EXPECT_NE(said.find(wrong.said), std::string::npos) << said;
    EXPECT_NE(said.find("rank 1 of 2 at 127.0.0.1:"), std::string::npos) << said;
  }
}

TEST(Rendezvous, ARankThatIsHereAlreadyIsRefusedUnlessItsProcessEnded) {
  Host rank0({0, 3, "", ""});
  const Membership rank1{1, 3, "", ""};
  std::string second;
  std::jthread callers([&] {
    const auto join = [&](const Membership& me) {
      return join_rank(rank0.place(), me, Channel::Data, kPayload, in(milliseconds(5000)));
    };
    Socket first = join(rank1);
    second = message_of([&] { join(rank1); });
    first = {};
    first = join(rank1);
    join({2, 3, "", ""});
  });
  rank0.reception.await_all(in(milliseconds(5000)));
  callers.join();
  EXPECT_NE(second.find("has this one already. Start each rank once"), std::string::npos) << second;
}

// ---- who speaks the protocol and is no rank: both ends written down once more, byte by byte

// As the protocol has it (comm/rendezvous.h).
struct RawHello {
  char magic[8] = {'S', 'W', 'C', 'H', 'Y', 'A', 'R', 'D'};
  uint32_t version = 2, size = 2, rank = 1, channel = 0;
  uint64_t job = 0, nonce = 4711;
};
struct RawAnswer {
  char magic[8] = {'S', 'W', 'C', 'H', 'Y', 'A', 'R', 'D'};
  uint32_t version = 2, verdict = 0, size = 2, rank = 0;
  uint64_t nonce = 815, proof = 0;
};

template <class T>
std::span<const std::byte> raw(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

RawHello hello_of(const std::string& job) {
  RawHello hello;
  hello.job = keyed_digest({5, 6}, std::as_bytes(std::span(job)));
  return hello;
}

// By who knows the secret and the number of the listener. `side`: 1 listens, 2 calls.
uint64_t proof_by(const std::string& secret, uint64_t token, uint64_t side, const RawHello& hello,
                  const RawAnswer& answer, std::span<const std::byte> payload = {}) {
  std::string text = secret;
  text.append(reinterpret_cast<const char*>(&token), sizeof token);
  const auto key_bytes = std::as_bytes(std::span(text));
  const uint64_t words[] = {side, answer.rank, answer.size, answer.nonce};
  std::vector<std::byte> said(payload.begin(), payload.end());
  const auto add = [&](std::span<const std::byte> part) {
    said.insert(said.end(), part.begin(), part.end());
  };
  add(std::as_bytes(std::span(words)));
  add(raw(hello));
  return keyed_digest({keyed_digest({1, 2}, key_bytes), keyed_digest({3, 4}, key_bytes)}, said);
}

// A connection that says what it likes.
class RawCaller {
 public:
  explicit RawCaller(uint16_t port) {
    std::string why;
    socket_ = try_connect("127.0.0.1", port, in(milliseconds(1000)), why);
  }
  void say(std::span<const std::byte> bytes) {
    send_all(socket_, bytes, in(milliseconds(1000)), "the test");
  }
  RawAnswer answer_to(const RawHello& hello) {
    RawAnswer answer;
    say(raw(hello));
    receive_all(socket_, std::as_writable_bytes(std::span(&answer, 1)), in(milliseconds(3000)),
                "it");
    return answer;
  }
  // Whether it is closed without another word.
  bool is_closed() {
    uint64_t word = 0;
    const auto why = message_of([&] {
      receive_all(socket_, std::as_writable_bytes(std::span(&word, 1)), in(milliseconds(3000)),
                  "it");
    });
    return why.find("it closed the connection") != std::string::npos ||
           why.find("reset") != std::string::npos;
  }

 private:
  Socket socket_;
};

// What rank 0 says at its deadline after `call(port)`, with nobody else there.
std::string said_after(const std::function<void(uint16_t)>& call) {
  Host rank0({0, 2, "job", "secret"});
  std::string said;
  std::jthread waiting(
      [&] { said = message_of([&] { rank0.reception.await_all(in(milliseconds(4000))); }); });
  call(rank0.port);
  waiting.join();
  return said;
}

TEST(Rendezvous, EachWordOfAHelloIsChecked) {
  struct Wrong {
    std::function<void(RawHello&)> change;
    uint32_t verdict;
    const char* said;
  };
  const Wrong all[] = {
      {[](RawHello& h) { h.version = 3; }, 1, "rank 1 from 127.0.0.1 of version 3"},
      {[](RawHello& h) { ++h.job; }, 2, "rank 1 from 127.0.0.1 of another job"},
      {[](RawHello& h) { h.size = 3; }, 3, "rank 1 from 127.0.0.1 of 3 ranks"},
      {[](RawHello& h) { h.rank = 0; }, 4, "rank 0 from 127.0.0.1 which is not awaited"},
      {[](RawHello& h) { h.rank = 2; }, 4, "rank 2 from 127.0.0.1 which is not awaited"},
      {[](RawHello& h) { h.rank = UINT32_MAX; }, 4, "rank 4294967295 from 127.0.0.1 which is not"},
      {[](RawHello& h) { h.channel = 1; }, 4, "rank 1 from 127.0.0.1 which is not awaited (2"},
      {[](RawHello& h) { h.channel = UINT32_MAX; }, 4, "which is not awaited"},
  };
  const auto said = said_after([&](uint16_t port) {
    for (const Wrong& wrong : all) {
      RawHello hello = hello_of("job");
      wrong.change(hello);
      RawCaller caller(port);
      EXPECT_EQ(caller.answer_to(hello).verdict, wrong.verdict) << wrong.said;
      EXPECT_TRUE(caller.is_closed()) << wrong.said;
    }
  });
  for (const Wrong& wrong : all) EXPECT_NE(said.find(wrong.said), std::string::npos) << said;
}

TEST(Rendezvous, WhatIsOfAnotherProtocolOrSaysNothingMoreIsNamed) {
  const auto said = said_after([](uint16_t port) {
    RawCaller http(port), mute(port);
    http.say(std::as_bytes(std::span(std::string_view("GET / HTTP/1.1\r\n"))));
    mute.say(raw(hello_of("job")).first(39));
    EXPECT_TRUE(http.is_closed());
    EXPECT_TRUE(mute.is_closed());
  });
  for (const char* part : {"a connection from 127.0.0.1 of another protocol",
                           "a connection from 127.0.0.1 which said nothing more"})
    EXPECT_NE(said.find(part), std::string::npos) << said;
}

// It heard the answer and does not look at it: the proof of the other end is what counts.
TEST(Rendezvous, WhoCannotProveTheSecretStaysOut) {
  const auto said = said_after([](uint16_t port) {
    for (const auto& [secret, token, first_byte] :
         {std::tuple{"guessed", 77, 1}, {"secret", 78, 1}, {"secret", 77, 9}}) {
      RawCaller caller(port);
      const RawHello hello = hello_of("job");
      const RawAnswer answer = caller.answer_to(hello);
      EXPECT_EQ(answer.verdict, 0u);
      EXPECT_EQ(answer.proof, proof_by("secret", 77, 1, hello, answer));
      caller.say(raw(proof_by(secret, static_cast<uint64_t>(token), 2, hello, answer, kPayload)));
      auto payload = kPayload;
      payload[0] = std::byte(first_byte);  // 9: another than the proof is of
      caller.say(payload);
      EXPECT_TRUE(caller.is_closed());
    }
  });
  EXPECT_NE(said.find("rank 1 from 127.0.0.1 with another secret (3 times)"), std::string::npos)
      << said;
}

TEST(Rendezvous, OfTwoWithOneNumberTheFirstToProveItIsIn) {
  Host rank0({0, 3, "job", "secret"});
  std::string said;
  std::jthread waiting(
      [&] { said = message_of([&] { rank0.reception.await_all(in(milliseconds(3000))); }); });
  RawHello hello = hello_of("job");
  hello.size = 3;
  RawCaller first(rank0.port), second(rank0.port);
  const auto prove = [&](RawCaller& caller, const RawAnswer& answer, std::byte mark) {
    auto payload = kPayload;
    payload[0] = mark;
    caller.say(raw(proof_by("secret", 77, 2, hello, answer, payload)));
    caller.say(payload);
  };
  const RawAnswer to_first = first.answer_to(hello), to_second = second.answer_to(hello);
  EXPECT_EQ(to_first.verdict, 0u);
  EXPECT_EQ(to_second.verdict, 0u);
  EXPECT_NE(to_first.nonce, to_second.nonce);
  prove(second, to_second, std::byte{22});
  std::this_thread::sleep_for(milliseconds(50));
  prove(first, to_first, std::byte{11});
  EXPECT_TRUE(first.is_closed());
  waiting.join();
  EXPECT_EQ(rank0.reception.payload(1)[0], std::byte{22});
  EXPECT_NE(said.find("rank 2 of 3 at"), std::string::npos) << said;
}

TEST(Rendezvous, ManyThatClaimARankAndProveNothingKeepItOutForABriefTimeOnly) {
  Host rank0({0, 2, "job", "secret"});
  std::vector<RawCaller> claims;
  std::string said;
  std::jthread waiting(
      [&] { said = message_of([&] { rank0.reception.await_all(in(milliseconds(4000))); }); });
  const RawHello hello = hello_of("job");
  for (int i = 0; i < 128; ++i) {
    claims.emplace_back(rank0.port);
    claims.back().say(raw(hello));
  }
  const auto heard = message_of([&] {
    join_rank(rank0.place(), {1, 2, "job", "secret"}, Channel::Data, kPayload,
              in(milliseconds(4000)));  // their patience is longer
  });
  waiting.join();
  EXPECT_EQ(heard, "no error");
  EXPECT_EQ(said, "no error");
}

TEST(Rendezvous, TheOldestSilentOneMakesRoom) {
  Host rank0({0, 2, "job", "secret"});
  std::string said;
  std::jthread waiting(
      [&] { said = message_of([&] { rank0.reception.await_all(in(milliseconds(1900))); }); });
  std::vector<RawCaller> mute;
  for (int i = 0; i < 132; ++i) mute.emplace_back(rank0.port);
  EXPECT_TRUE(mute.front().is_closed());
  waiting.join();
  EXPECT_NE(said.find("a connection from 127.0.0.1 for many at once"), std::string::npos) << said;
}

// Who says nothing gives its descriptor to who waits, without the time that it has otherwise.
TEST(Rendezvous, WithoutFreeDescriptorsASilentOneMakesRoomAtOnce) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer looks at objects through a pipe, which takes descriptors";
#endif
  SharedArray<testing::Seen> seen(1);
  ForkedRanks children(1, [&](int) {
    Host rank0({0, 2, "job", "secret"});
    RawCaller mute(rank0.port), rank1(rank0.port);
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    const int lowest_free = dup(0);
    close(lowest_free);
    const rlimit one_left{static_cast<rlim_t>(lowest_free) + 1, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &one_left);
    std::jthread caller([&] {
      message_of([&] {
        const RawHello hello = hello_of("job");
        const RawAnswer answer = rank1.answer_to(hello);
        rank1.say(raw(proof_by("secret", 77, 2, hello, answer, kPayload)));
        rank1.say(kPayload);
      });
    });
    const auto said = message_of([&] { rank0.reception.await_all(in(milliseconds(1900))); });
    setrlimit(RLIMIT_NOFILE, &before);
    seen[0].say(std::runtime_error(said));
  });
  EXPECT_TRUE(children.finished(0, std::chrono::seconds(20)));
  EXPECT_TRUE(seen[0].says("no error")) << seen[0].message;
}

// What a caller hears from a listener that answers `answer` and, if it is asked in, says `welcome`.
std::string heard_from(RawAnswer answer, const std::string& proves_with,
                       std::string_view welcome = "SWCHYARD", uint32_t place_rank = 0,
                       milliseconds deadline = milliseconds(10000)) {
  const Listener listener = listen_at("127.0.0.1", 0, in(milliseconds(1000)));
  const auto talk = [&](const Socket& socket) {
    RawHello hello;
    std::array<std::byte, sizeof(uint64_t) + sizeof kPayload> proof;
    receive_all(socket, std::as_writable_bytes(std::span(&hello, 1)), in(milliseconds(1000)), "it");
    answer.proof = proof_by(proves_with, 77, 1, hello, answer);
    send_all(socket, raw(answer), in(milliseconds(1000)), "it");
    receive_all(socket, proof, in(milliseconds(1000)), "it");
    send_all(socket, std::as_bytes(std::span(welcome)), in(milliseconds(1000)), "it");
    receive_all(socket, std::span(proof).first(1), in(milliseconds(1000)), "it");  // until it goes
  };
  std::jthread host([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const Socket socket = try_accept(listener);
      if (socket.open())
        message_of([&] { talk(socket); });
      else
        std::this_thread::sleep_for(milliseconds(2));
    }
  });
  return message_of([&] {
    join_rank({"127.0.0.1", listener.port, 77, place_rank}, {1, 2, "job", "secret"}, Channel::Data,
              kPayload, in(deadline));
  });
}

TEST(Rendezvous, WhoeverAnswersIsAskedForItsProof) {
  EXPECT_EQ(heard_from({}, "secret"), "no error");
  const auto expect = [](const std::string& heard, const char* part) {
    EXPECT_NE(heard.find(part), std::string::npos) << heard << " / " << part;
  };
  expect(heard_from({}, "guessed"), "does not prove that it is one of this job");
  expect(heard_from({}, "secret", "SWCHYARD", 1), "does not prove");  // of another rank
  expect(heard_from({.rank = 1}, "secret"), "does not prove");
  const milliseconds brief(400);  // who is not sure tries again until then
  expect(heard_from({}, "secret", "SWCHYARE", 0, brief), "no connection to rank 0");
  RawAnswer foreign;
  foreign.magic[0] = 'X';
  expect(heard_from(foreign, "secret", "SWCHYARD", 0, brief), "no connection to rank 0");
  struct Verdict {
    uint32_t number;
    const char* heard;
  };
  for (const auto& [number, heard] : {Verdict{1, "Run the same release on every rank"},
                                      {2, "is of another job"},
                                      {3, "Start every rank with the same WORLD_SIZE"},
                                      {4, "does not await it"},
                                      {5, "Start each rank once"},
                                      {6, "does not await it"}})
    expect(heard_from({.verdict = number}, "secret"), heard);
}

// ---- strangers, processes, names

// Connections of everybody but ranks; they stay open.
class Strangers {
 public:
  void come(uint16_t port, int num) {
    constexpr std::string_view kHttp = "GET / HTTP/1.1\r\nHost: rank0\r\n\r\n";
    for (int i = 0; i < num; ++i) {
      std::string why;
      Socket socket = try_connect("127.0.0.1", port, in(milliseconds(1000)), why);
      if (!socket.open()) continue;
      const auto say = [&](std::span<const std::byte> bytes) {
        (void)!send(socket.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      };
      std::array<uint32_t, 32> noise;
      for (uint32_t& word : noise) word = 0x9e3779b9u * (++seed_);
      std::memcpy(noise.data(), "SWCHYARD\2\0\0\0", 12);
      if (i % 4 == 1) say(std::as_bytes(std::span(kHttp)));
      if (i % 4 == 2) say(std::as_bytes(std::span(noise)));            // claims anything
      if (i % 4 == 3) say(std::as_bytes(std::span(noise)).first(13));  // and stops there
      sockets_.push_back(std::move(socket));
    }
  }

 private:
  std::vector<Socket> sockets_;
  uint32_t seed_ = static_cast<uint32_t>(::getpid());
};

void set_environment(int rank, int size, int port, const char* address = "127.0.0.1") {
  setenv("RANK", std::to_string(rank).c_str(), 1);
  setenv("WORLD_SIZE", std::to_string(size).c_str(), 1);
  setenv("MASTER_ADDR", address, 1);
  setenv("MASTER_PORT", std::to_string(port).c_str(), 1);
}

// Whether ranks that are processes come together and gather what they should, `beside` something.
bool come_together(int num_ranks, const char* address,
                   const std::function<void(int port)>& beside) {
  const int port = free_master_port();
  ForkedRanks children(num_ranks, [&](int rank) {
    set_environment(rank, num_ranks, port, address);
    setenv("SWITCHYARD_SECRET", "of this test", 1);
    // Strangers come first.
    if (rank > 0) std::this_thread::sleep_for(milliseconds(300));
    ProcessRankOptions options;
    options.deadline = milliseconds(10000);
    const auto comm = make_process_rank(options);
    std::vector<int32_t> all(static_cast<size_t>(num_ranks));
    comm->all_gather(Tensor(all.data(), {num_ranks}), ConstTensor(&rank, {1}), nullptr);
    for (int r = 0; r < num_ranks; ++r)
      SWITCHYARD_REQUIRE(all[static_cast<size_t>(r)] == r, Transport, "wrong ranks");
  });
  beside(port + 1);
  bool all_good = true;
  for (int r = 0; r < num_ranks; ++r) all_good &= children.finished(r);
  return all_good;
}

TEST(Rendezvous, AThousandStrangersKeepNobodyWaiting) {
  EXPECT_TRUE(come_together(4, "127.0.0.1", [](int port) {
    std::this_thread::sleep_for(milliseconds(100));
    Strangers strangers;
    strangers.come(static_cast<uint16_t>(port), 1000);
    std::this_thread::sleep_for(milliseconds(1500));
  }));
}

TEST(Rendezvous, IPv6Works) {
  std::string why;
  try {
    listen_at("::1", 0, in(milliseconds(0)));
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  EXPECT_TRUE(come_together(3, "::1", [](int) {}));
}

TEST(Rendezvous, RankZeroListensAtTheAddressGivenAlone) {
  const int port = free_master_port();
  ForkedRanks children(1, [&](int) {
    set_environment(0, 2, port);
    ProcessRankOptions options;
    options.deadline = milliseconds(1500);
    make_process_rank(options);
  });
  const auto answers = [&](const char* host) {
    std::string why;
    const auto rank0 = static_cast<uint16_t>(port + 1);
    return try_connect(host, rank0, in(milliseconds(1000)), why).open();
  };
  EXPECT_TRUE(testing::comes([&] { return answers("127.0.0.1"); }, std::chrono::seconds(5)));
  EXPECT_FALSE(answers("127.0.0.2"));  // of this machine, too
  EXPECT_FALSE(children.finished(0));  // its peer does not come
}

TEST(Rendezvous, WithoutFreeDescriptorsTheDeadlineHolds) {
  SharedArray<testing::Seen> seen(1);
  ForkedRanks children(1, [&](int) {
    Host rank0({0, 2, "", ""});
    std::string why;
    const Socket waits = try_connect("127.0.0.1", rank0.port, in(milliseconds(1000)), why);
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    const rlimit all_taken{3, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &all_taken);
    try {
      rank0.reception.await_all(in(milliseconds(300)));
    } catch (const Error& e) {
      setrlimit(RLIMIT_NOFILE, &before);  // a sanitizer looks at an object through a pipe
      seen[0].say(e);
    }
  });
  EXPECT_TRUE(children.finished(0, std::chrono::seconds(10)));
  EXPECT_TRUE(seen[0].says("it did not come within the deadline")) << seen[0].message;
}

// A name may be known later; one that never is, or is too long, is an error that says so.
TEST(Rendezvous, NamesThatNobodyKnowsAreNamed) {
  const std::string name = "rank0-" + std::string(50, 'x') + ".switchyard.invalid";
  const auto joined = message_of([&] {
    join_rank({name, 1, 0, 0}, {1, 2, "", ""}, Channel::Data, {}, in(milliseconds(100)));
  });
  EXPECT_NE(joined.find("rank 0 at " + name + ":1: cannot resolve the name"), std::string::npos)
      << joined;
  ProcessRankOptions options;
  options.deadline = milliseconds(100);
  options.address = name;
  const auto none = [](void*, const void*, size_t) {};
  const auto listened = message_of([&] { make_process_rank(0, 2, none, options); });
  EXPECT_NE(listened.find("cannot listen at " + name), std::string::npos) << listened;
  for (const size_t size : {0, 256}) {
    options.address = std::string(size, 'x');
    try {
      make_process_rank(0, 2, none, options);
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::ShapeMismatch);
    }
  }
}

// Nobody listens at a port that TCP gives to who connects: of Linux's 28232, each even one in turn.
TEST(Rendezvous, NobodyConnectsToItself) {
  const uint16_t port = listen_at("127.0.0.1", 0, in(milliseconds(0))).port & 0xfffe;  // free again
  int num_connected = 0;
  for (int i = 0; i < 16000; ++i) {
    std::string why;
    num_connected += try_connect("127.0.0.1", port, in(milliseconds(1000)), why).open();
  }
  EXPECT_EQ(num_connected, 0);
}

}  // namespace
}  // namespace switchyard
