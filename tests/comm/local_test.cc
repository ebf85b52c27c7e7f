// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/local_test.cc
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <latch>
#include <numeric>
#include <thread>

#include "switchyard/communicator.h"
#include "switchyard/error.h"
#include "testing/buffer.h"
#include "testing/forked_ranks.h"

namespace switchyard {
namespace {

using std::chrono::milliseconds;
using testing::Buffer;

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Transport);
    return e.what();
  }
  return "no error";
}

TEST(LocalRanks, AStalledRankIsNamedOnTheOthersWithinTheDeadline) {
  auto ranks = make_local_ranks(3, {.deadline = milliseconds(1000)});
  std::vector<std::string> messages(3);
  std::vector<double> waited(3);
  std::latch both(2);
  const auto body = [&](size_t r) {
    Buffer<int32_t> mine({1}), all({3});
    mine[0] = 1;
    if (r != 1) both.arrive_and_wait();
    const auto start = std::chrono::steady_clock::now();
    messages[r] = message_of([&] { ranks[r]->all_gather(all.view(), mine.view(), nullptr); });
    waited[r] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  { std::jthread zero(body, 0), two(body, 2); }
  for (const size_t r : {0u, 2u}) {
    EXPECT_NE(messages[r].find("all_gather: rank 1 did not come within 1000 ms"), std::string::npos)
        << messages[r];
    EXPECT_LT(waited[r], 10.0);  // not the default deadline, and never forever
  }
  body(1);  // the late rank learns of it at once
  EXPECT_EQ(messages[1], messages[0]);
}

TEST(LocalRanks, DifferentCallsFailOnEveryRank) {
  auto ranks = make_local_ranks(2);
  std::vector<std::string> messages(2);
  {
    std::jthread zero([&] {
      Buffer<int32_t> mine({1}), all({2});
      mine[0] = 1;
      messages[0] = message_of([&] { ranks[0]->all_gather(all.view(), mine.view(), nullptr); });
    });
    std::jthread one([&] { messages[1] = message_of([&] { ranks[1]->split(0); }); });
  }
  EXPECT_EQ(messages[0], messages[1]);
  EXPECT_NE(messages[0].find("rank 1 called it while rank 0 called all_gather"), std::string::npos)
      << messages[0];
}

TEST(LocalRanks, DifferentSizesFailOnEveryRank) {
  auto ranks = make_local_ranks(2);
  std::vector<std::string> messages(2);
  const auto body = [&](size_t r) {
    Buffer<int32_t> mine({static_cast<int64_t>(r) + 1}), all({2 * (static_cast<int64_t>(r) + 1)});
    messages[r] = message_of([&] { ranks[r]->all_gather(all.view(), mine.view(), nullptr); });
  };
  { std::jthread zero(body, 0), one(body, 1); }
  EXPECT_EQ(messages[0],
            "all_gather: bytes=8 on rank 1, rank 0 has 4. Every rank must give as much.");
  EXPECT_EQ(messages[1], messages[0]);
}

TEST(LocalRanks, MoreRowsThanTheReceiverHoldsFailOnEveryRankAndWriteNothing) {
  std::atomic<int> untouched = 0;
  auto ranks = make_local_ranks(2);
  std::vector<std::string> messages(2);
  const auto body = [&](size_t r) {
    Buffer<int32_t> counts({2, 2}), src({3, 1}), dst({2, 1});
    for (int i = 0; i < 3; ++i) src[i] = i;
    counts[0] = 1;
    counts[1] = 2;
    counts[2] = 0;
    counts[3] = 1;
    const RowTransfer transfer[] = {{dst.view(), src.view()}};
    messages[r] =
        message_of([&] { ranks[r]->all_to_all_rows(transfer, {}, counts.view(), nullptr); });
    untouched += dst[0] == testing::poison_value<int32_t>() && dst.guards_intact();
  };
  { std::jthread zero(body, 0), one(body, 1); }
  EXPECT_EQ(messages[0],
            "all_to_all_rows: rows=3 for rank 1, its buffer holds 2. Use a larger capacity.");
  EXPECT_EQ(messages[1], messages[0]);
  EXPECT_EQ(untouched, 2);
}

TEST(LocalRanks, ARowOutsideTheSourceFailsInsteadOfBeingRead) {
  auto ranks = make_local_ranks(1);
  Buffer<int32_t> counts({1, 1}), src({2, 1}), dst({2, 1}), send_rows({1});
  counts[0] = 1;
  send_rows[0] = 2;
  const RowTransfer transfer[] = {{dst.view(), src.view()}};
  EXPECT_NE(message_of([&] {
              ranks[0]->all_to_all_rows(transfer, send_rows.view(), counts.view(), nullptr);
            }).find("send_rows[0]=2"),
            std::string::npos);
}

TEST(RunLocalRanks, ARankThatThrowsEndsItsPeersAndItsErrorComesOut) {
  try {
    run_local_ranks(4, [](Communicator& comm) {
      if (comm.rank() == 2) throw Error(Errc::BadFile, "shard 2 is missing");
      Buffer<int32_t> mine({1}), all({4});
      mine[0] = 0;
      comm.all_gather(all.view(), mine.view(), nullptr);
    });
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::BadFile);
    EXPECT_STREQ(e.what(), "shard 2 is missing");
  }
}

TEST(RunLocalRanks, AnAbortReachesPeersThatWaitInAGroup) {
  EXPECT_THROW(run_local_ranks(4,
                               [](Communicator& comm) {
                                 auto group = comm.split(comm.rank() / 2);
                                 if (comm.rank() == 3) throw Error(Errc::Unsupported, "no");
                                 Buffer<int32_t> mine({1}), all({2});
                                 mine[0] = 0;
                                 group->all_gather(all.view(), mine.view(), nullptr);
                                 group->all_gather(all.view(), mine.view(), nullptr);
                               }),
               Error);
}

// Both transports ask the same of views; sockets' ranks are threads here, too.
TEST(Views, ThatCannotBeExchangedAreRefusedOnEveryRank) {
  struct Wrong {
    const char* what;
    std::function<void(Communicator&)> call;  // of rank 1
  };
  static std::array<int32_t, 16> words{};
  const auto gather = [](Tensor dst, ConstTensor src) {
    return [=](Communicator& comm) { comm.all_gather(dst, src, nullptr); };
  };
  const Tensor two(words.data(), {2});
  const ConstTensor one(words.data() + 8, {1});
  const auto rows = [](Tensor dst, ConstTensor send_rows, ConstTensor counts) {
    return [=](Communicator& comm) {
      const RowTransfer transfer[] = {{dst, ConstTensor(words.data() + 8, {2, 1})}};
      comm.all_to_all_rows(transfer, send_rows, counts, nullptr);
    };
  };
  const Tensor room(words.data(), {2, 1});
  const ConstTensor counts(words.data() + 12, {2, 2});
  const ConstTensor odd(reinterpret_cast<std::byte*>(words.data()) + 1, DType::I32, {2, 2});
  const Wrong all[] = {
      {"all_gather: src=[-1]", gather(two, {words.data(), {-1}})},
      {"all_gather: src=[-1, -1]", gather(two, {words.data(), {-1, -1}})},
      {"all_gather: dst=[4611686018427387904, 4]", gather({words.data(), {1L << 62, 4}}, one)},
      {"all_gather: src dtype=9", gather(two, {words.data(), DType(9), {1}})},
      {"all_gather: dst is null", gather({nullptr, DType::I32, {2}}, one)},
      {"all_gather: src is on cuda", gather(two, {words.data(), {1}, DeviceKind::Cuda})},
      {"all_to_all_rows: dst=[-1, 1]", rows({words.data(), {-1, 1}}, {}, counts)},
      {"all_to_all_rows: counts=3", rows(room, {}, {words.data() + 12, {3}})},
      {"all_to_all_rows: counts is null", rows(room, {}, {nullptr, DType::I32, {2, 2}})},
      {"all_to_all_rows: counts is not i32 at a multiple of 4 bytes", rows(room, {}, odd)},
      {"all_to_all_rows: send_rows is not i32", rows(room, odd, counts)},
  };
  const auto run = [](const Wrong& wrong, Communicator& comm) {
    const std::function<void(Communicator&)> good = [](Communicator& c) {
      std::array<int32_t, 3> mine{};
      c.all_gather(Tensor(mine.data(), {2}), ConstTensor(&mine[2], {1}), nullptr);
    };
    const auto call = comm.rank() == 1 ? wrong.call : good;
    if (std::string(wrong.what).starts_with("all_gather") || comm.rank() == 1) return call(comm);
    std::array<int32_t, 4> none{};
    comm.all_to_all_rows({}, {}, ConstTensor(none.data(), {2, 2}), nullptr);
  };
  for (const Wrong& wrong : all)
    for (const bool processes : {false, true}) {
      auto ranks = make_local_ranks(2);
      testing::GatherTable table;
      std::vector<std::string> messages(2);
      const auto body = [&](size_t r) {
        if (processes) ranks[r] = make_process_rank(int(r), 2, table.of(int(r), 2));
        messages[r] = message_of([&] { run(wrong, *ranks[r]); });
      };
      { std::jthread zero(body, 0), other(body, 1); }
      for (const auto& message : messages)
        EXPECT_NE(message.find(wrong.what), std::string::npos)
            << message << (processes ? ", processes" : ", threads");
    }
}

TEST(Deadlines, BeyondWhatClocksCountAreRefused) {
  const auto refusal_of = [](const std::function<void()>& make) -> std::string {
    try {
      make();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::ShapeMismatch);
      return e.what();
    }
    return "none";
  };
  for (const auto deadline :
       {milliseconds::max(), milliseconds::min(), milliseconds(-1), milliseconds(0)}) {
    const std::string value = "deadline=" + std::to_string(deadline.count()) + " ms, need 1 to";
    const auto gather = [](void*, const void*, size_t) {};
    ProcessRankOptions options;
    options.deadline = deadline;
    EXPECT_NE(refusal_of([&] { make_local_ranks(2, {.deadline = deadline}); }).find(value),
              std::string::npos);
    EXPECT_NE(refusal_of([&] { make_process_rank(0, 2, gather, options); }).find(value),
              std::string::npos);
  }
  for (auto& comm : make_local_ranks(1, {.deadline = std::chrono::hours(24 * 365)})) meet(*comm);
}

TEST(RunLocalRanks, NonsenseIsRefused) {
  EXPECT_THROW(make_local_ranks(0), Error);
  EXPECT_THROW(make_local_ranks(5000), Error);
  EXPECT_THROW(make_local_ranks(2, {.deadline = milliseconds(0)}), Error);
}

}  // namespace
}  // namespace switchyard
