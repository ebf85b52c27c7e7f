// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/ranks_test.cc -- what every transport that ranks choose from must do. The ranks are
// threads; those of processes have their sockets between them all the same.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <numeric>
#include <string>
#include <thread>

#include "comm/handshake.h"
#include "switchyard/communicator.h"
#include "switchyard/error.h"
#include "testing/buffer.h"
#include "testing/forked_ranks.h"

namespace switchyard {
namespace {

using std::chrono::milliseconds;
using testing::Buffer;

struct Ranks {
  bool are_processes;
  int num;
};
void PrintTo(const Ranks& ranks, std::ostream* out) {
  *out << ranks.num << (ranks.are_processes ? " processes" : " threads");
}

// What each rank threw; empty where it came to its end.
std::vector<std::string> run(const Ranks& ranks, const std::function<void(Communicator&)>& body,
                             milliseconds deadline = std::chrono::seconds(30)) {
  std::vector<std::string> messages(static_cast<size_t>(ranks.num));
  auto local = make_local_ranks(ranks.num, {.deadline = deadline});
  testing::GatherTable table;
  // A rank that ends first leaves the others: none does before all have said what they saw.
  std::atomic<int> num_done = 0;
  const auto rank = [&](int r) {
    std::unique_ptr<Communicator> comm;
    try {
      comm = std::move(local[static_cast<size_t>(r)]);
      ProcessRankOptions options;
      options.deadline = deadline;
      if (ranks.are_processes)
        comm = make_process_rank(r, ranks.num, table.of(r, ranks.num), options);
      body(*comm);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::Transport) << e.what();
      messages[static_cast<size_t>(r)] = e.what();
    }
    for (++num_done; num_done < ranks.num;) std::this_thread::sleep_for(milliseconds(1));
  };
  std::vector<std::jthread> threads;
  for (int r = 0; r < ranks.num; ++r) threads.emplace_back(rank, r);
  threads.clear();
  return messages;
}

class EveryTransport : public ::testing::TestWithParam<Ranks> {
 protected:
  void all_good(const std::function<void(Communicator&)>& body) {
    for (const auto& message : run(GetParam(), body)) EXPECT_EQ(message, "");
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, EveryTransport,
                         ::testing::Values(Ranks{false, 1}, Ranks{false, 2}, Ranks{false, 3},
                                           Ranks{false, 4}, Ranks{false, 8}, Ranks{true, 1},
                                           Ranks{true, 2}, Ranks{true, 3}, Ranks{true, 6}));

TEST_P(EveryTransport, SaysWhichRankItIs) {
  const std::string name = GetParam().are_processes ? "processes" : "threads";
  std::atomic<int> sum = 0;
  all_good([&](Communicator& comm) {
    EXPECT_EQ(comm.size(), GetParam().num);
    EXPECT_EQ(comm.transport(), name);
    EXPECT_EQ(comm.deadline(), std::chrono::seconds(30));
    EXPECT_EQ(comm.failure_reason(), "");
    sum += comm.rank();
    meet(comm);
  });
  EXPECT_EQ(sum, GetParam().num * (GetParam().num - 1) / 2);
}

TEST_P(EveryTransport, AllGatherOrdersBlocksByRank) {
  all_good([](Communicator& comm) {
    for (int round = 0; round < 20; ++round) {
      Buffer<int32_t> mine({2}), all({comm.size(), 2});
      mine[0] = 100 * round + comm.rank();
      mine[1] = -comm.rank();
      comm.all_gather(all.view(), mine.view(), nullptr);
      EXPECT_TRUE(all.guards_intact());
      for (int r = 0; r < comm.size(); ++r) {
        EXPECT_EQ(all[2 * r], 100 * round + r);
        EXPECT_EQ(all[2 * r + 1], -r);
      }
    }
  });
}

// More than any socket or stage takes at once, and of a size that divides neither.
TEST_P(EveryTransport, AllGatherOfALotArrivesWhole) {
  constexpr int64_t kWords = 300'007;
  all_good([](Communicator& comm) {
    Buffer<int32_t> mine({kWords}), all({comm.size(), kWords});
    for (int64_t i = 0; i < kWords; ++i) mine[i] = static_cast<int32_t>(i * 7 + comm.rank());
    comm.all_gather(all.view(), mine.view(), nullptr);
    int64_t num_wrong = !all.guards_intact();
    for (int r = 0; r < comm.size(); ++r)
      for (int64_t i = 0; i < kWords; ++i) num_wrong += all[r * kWords + i] != i * 7 + r;
    EXPECT_EQ(num_wrong, 0);
  });
}

// Rank s sends (s + 2 d) % 3 rows to rank d: of three kinds, one of them wider than what travels at
// once, which all say sender, receiver, number and kind. The source holds them backwards and
// send_rows puts them in order; without it they stand in order.
TEST_P(EveryTransport, RowsArriveBySourceRankInTheOrderSent) {
  const int p = GetParam().num;
  const auto rows_from_to = [](int s, int d) { return (s + 2 * d) % 3; };
  constexpr int64_t kWidths[] = {3, 17'001, 0};
  const auto word = [](int s, int d, int i, int64_t column) {
    return static_cast<int32_t>(((s * 8 + d) * 3 + i) * 20'000 + column);
  };
  all_good([&](Communicator& comm) {
    Buffer<int32_t> counts({p, p});
    int sent = 0, received = 0;
    for (int s = 0; s < p; ++s)
      for (int d = 0; d < p; ++d) counts[s * p + d] = rows_from_to(s, d);
    for (int r = 0; r < p; ++r) {
      sent += rows_from_to(comm.rank(), r);
      received += rows_from_to(r, comm.rank());
    }
    for (const bool backwards : {true, false}) {
      Buffer<int32_t> send_rows({sent});
      std::vector<Buffer<int32_t>> src, dst;
      std::vector<RowTransfer> transfers;
      for (const int64_t width : kWidths) {
        src.emplace_back(Shape{sent, width});
        dst.emplace_back(Shape{received, width});
      }
      for (size_t k = 0; k < std::size(kWidths); ++k) {
        transfers.push_back({dst[k].view(), src[k].view()});
        int n = 0;
        for (int d = 0; d < p; ++d)
          for (int i = 0; i < rows_from_to(comm.rank(), d); ++i, ++n) {
            const int at = send_rows[n] = backwards ? sent - 1 - n : n;
            for (int64_t c = 0; c < kWidths[k]; ++c)
              src[k][at * kWidths[k] + c] = word(comm.rank(), d, i, c);
          }
      }
      comm.all_to_all_rows(transfers, backwards ? send_rows.view() : Tensor(), counts.view(),
                           nullptr);
      int64_t num_wrong = 0;
      for (size_t k = 0; k < std::size(kWidths); ++k) {
        num_wrong += !dst[k].guards_intact();
        int64_t n = 0;
        for (int s = 0; s < p; ++s)
          for (int i = 0; i < rows_from_to(s, comm.rank()); ++i, ++n)
            for (int64_t c = 0; c < kWidths[k]; ++c)
              num_wrong += dst[k][n * kWidths[k] + c] != word(s, comm.rank(), i, c);
      }
      EXPECT_EQ(num_wrong, 0) << (backwards ? "with send_rows" : "in order");
    }
  });
}

TEST_P(EveryTransport, SplitGroupsByColorInOrderOfRank) {
  all_good([](Communicator& comm) {
    for (int round = 0; round < 3; ++round) {
      const int color = comm.rank() % 2 == 0 ? -7 : round;
      auto group = comm.split(color);
      const int size = (comm.size() + (comm.rank() % 2 == 0)) / 2;
      Buffer<int32_t> mine({1}), all({size});
      mine[0] = comm.rank();
      ASSERT_EQ(group->size(), size);
      EXPECT_EQ(group->rank(), comm.rank() / 2);
      group->all_gather(all.view(), mine.view(), nullptr);
      for (int r = 0; r < size; ++r) EXPECT_EQ(all[r], 2 * r + comm.rank() % 2);
      meet(comm);  // the whole goes on beside its parts
    }
  });
}

TEST_P(EveryTransport, AnAbortIsTheReasonOnEveryRankAtOnce) {
  if (GetParam().num == 1) return;
  const auto start = std::chrono::steady_clock::now();
  const auto messages = run(GetParam(), [](Communicator& comm) {
    std::atomic<int> num_told = 0;
    const auto watch = comm.when_over([&] { ++num_told; });
    EXPECT_EQ(num_told, 0);
    meet(comm);
    if (comm.rank() == 1) comm.abort("shard 2 is missing");
    try {
      meet(comm);
    } catch (const Error&) {
      EXPECT_NE(comm.failure_reason().find("shard 2 is missing"), std::string::npos);
      while (watch && num_told == 0) std::this_thread::sleep_for(milliseconds(1));
      comm.abort("another reason, too late");
    }
    meet(comm);
  });
  for (const auto& message : messages)
    EXPECT_NE(message.find("shard 2 is missing"), std::string::npos) << message;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
}

TEST_P(EveryTransport, ARankThatDoesNotComeIsNamedByTheOthers) {
  const int p = GetParam().num;
  if (p != 3) return;  // it takes the deadline
  std::atomic<int> num_gone = 0;
  const auto messages = run(
      GetParam(),
      [&](Communicator& comm) {
        meet(comm);
        if (comm.rank() == 1) {
          while (num_gone < p - 1) std::this_thread::sleep_for(milliseconds(1));
          return;
        }
        try {
          Buffer<int32_t> mine({1}), all({p});
          mine[0] = 1;
          comm.all_gather(all.view(), mine.view(), nullptr);
        } catch (const Error&) {
          ++num_gone;
          throw;
        }
        ++num_gone;
      },
      milliseconds(2000));
  for (int r = 0; r < p; ++r)
    if (r == 1)
      EXPECT_EQ(messages[1], "");
    else
      EXPECT_NE(messages[static_cast<size_t>(r)].find("rank 1 did not come within 2000 ms"),
                std::string::npos)
          << messages[static_cast<size_t>(r)];
}

// Two ranks that say different things: what both get to know of it.
struct Quarrel {
  const char* says;
  std::function<void(Communicator&)> zero, one;
};

TEST(EveryTransport, RanksThatDoDifferentThingsAreToldWhat) {
  const auto gather = [](int64_t words) {
    return [words](Communicator& comm) {
      Buffer<int32_t> mine({words}), all({2, words});
      for (int64_t i = 0; i < words; ++i) mine[i] = 1;
      comm.all_gather(all.view(), mine.view(), nullptr);
    };
  };
  const auto exchange = [](std::vector<int32_t> counts, int64_t num_kinds, int64_t room) {
    return [=](Communicator& comm) {
      Buffer<int32_t> all({2, 2}), src({3, 1});
      for (size_t i = 0; i < 4; ++i) all[static_cast<int64_t>(i)] = counts[i];
      for (int i = 0; i < 3; ++i) src[i] = i;
      std::vector<Buffer<int32_t>> dst;
      std::vector<RowTransfer> transfers;
      for (int64_t k = 0; k < num_kinds; ++k) dst.emplace_back(Shape{room, 1});
      for (auto& one : dst) transfers.push_back({one.view(), src.view()});
      comm.all_to_all_rows(transfers, {}, all.view(), nullptr);
    };
  };
  const auto split = [](Communicator& comm) { comm.split(0); };
  const std::vector<int32_t> ones(4, 1), more{1, 1, 2, 1}, negative{1, -1, 1, 1};
  const std::vector<int32_t> many_to_one{1, 2, 0, 1};
  const Quarrel quarrels[] = {
      {"all_gather", gather(1), split},
      {"all_gather", gather(1), exchange(ones, 1, 3)},
      {"rank", gather(1), gather(2)},
      {"rank", exchange(ones, 1, 3), exchange(ones, 2, 3)},
      {"rank", exchange(ones, 1, 3), exchange(more, 1, 3)},
      {"rows=3 for rank 1, its buffer holds 2. Use a larger capacity.", exchange(many_to_one, 1, 3),
       exchange(many_to_one, 1, 2)},
      {"negative", exchange(negative, 1, 3), exchange(negative, 1, 3)},
      {"negative", exchange({1, 1, -1, 1}, 1, 3), exchange({1, 1, -1, 1}, 1, 3)},
  };
  for (const auto& quarrel : quarrels)
    for (const bool processes : {false, true}) {
      const auto messages = run({processes, 2}, [&](Communicator& comm) {
        (comm.rank() == 0 ? quarrel.zero : quarrel.one)(comm);
        meet(comm);  // who had all that it needs is told here
      });
      for (const auto& message : messages)
        EXPECT_NE(message.find(quarrel.says), std::string::npos)
            << (processes ? "processes: " : "threads: ") << message;
    }
}

// Two machines must never look alike: both halves of the number of this boot count.
TEST(ProcessRanks, OfThisBootAreKnownByItsWholeNumber) {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  if (!std::getline(file, text)) GTEST_SKIP() << "no number of this boot";
  std::erase(text, '-');
  ASSERT_EQ(text.size(), 32u);
  const ProcessIdentity mine = ProcessIdentity::mine();
  for (size_t i = 0; i < 2; ++i)
    EXPECT_EQ(static_cast<uint64_t>(mine.host[i]),
              std::stoull(text.substr(16 * i, 16), nullptr, 16));
}

TEST(ProcessRanks, TakeAtMostEightKindsOfRows) {
  for (const int64_t num_kinds : {8, 9}) {
    const auto messages = run({true, 2}, [&](Communicator& comm) {
      Buffer<int32_t> counts({2, 2}), src({1, 1});
      for (int i = 0; i < 4; ++i) counts[i] = i % 3 == 0 ? 0 : 1;
      src[0] = 10 + comm.rank();
      std::vector<Buffer<int32_t>> dst;
      std::vector<RowTransfer> transfers;
      for (int64_t k = 0; k < num_kinds; ++k) dst.emplace_back(Shape{1, 1});
      for (auto& one : dst) transfers.push_back({one.view(), src.view()});
      comm.all_to_all_rows(transfers, {}, counts.view(), nullptr);
      for (auto& one : dst) EXPECT_EQ(one[0], 11 - comm.rank());
    });
    for (const auto& message : messages)
      if (num_kinds == 8)
        EXPECT_EQ(message, "");
      else
        EXPECT_NE(message.find("all_to_all_rows: transfers=9 on rank "), std::string::npos)
            << message;
  }
}

TEST(ProcessRanks, NameTheRankWhoseCountIsNegative) {
  for (const int at : {1, 2}) {  // what rank 0 sends, what it receives
    const auto messages = run({true, 2}, [&](Communicator& comm) {
      Buffer<int32_t> counts({2, 2}), src({2, 1}), dst({2, 1});
      for (int i = 0; i < 4; ++i) counts[i] = i == at && comm.rank() == 0 ? -1 : 1;
      src[0] = src[1] = 7;
      const RowTransfer transfer[] = {{dst.view(), src.view()}};
      comm.all_to_all_rows(transfer, {}, counts.view(), nullptr);
    });
    for (const auto& message : messages)
      EXPECT_EQ(message, "all_to_all_rows: a count on rank 0 is negative.");
  }
}

TEST(ProcessRanks, OneAloneIsOverAfterItsAbort) {
  testing::GatherTable table;
  const auto comm = make_process_rank(0, 1, table.of(0, 1));
  meet(*comm);
  comm->abort("no shard");
  EXPECT_THROW(meet(*comm), Error);
  EXPECT_EQ(comm->failure_reason(), "no shard");
}

TEST(ProcessRanks, ThatCannotBeAreRefused) {
  const auto gather = [](void*, const void*, size_t) { FAIL() << "before the peers hear of it"; };
  const auto refusal = [&](int rank, int size, const std::string& address) {
    ProcessRankOptions options;
    options.address = address;
    options.deadline = std::chrono::seconds(1);
    try {
      make_process_rank(rank, size, gather, options);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::ShapeMismatch) << e.what();
      return std::string(e.what());
    }
    return std::string("none");
  };
  const std::pair<int, int> ranks[] = {{-1, 2}, {2, 2}, {3, 2}, {0, 0}, {0, -1}, {0, 4097}};
  for (const auto& [rank, size] : ranks)
    EXPECT_EQ(refusal(rank, size, "127.0.0.1"),
              "make_process_rank: rank=" + std::to_string(rank) + " of " + std::to_string(size) +
                  ", need a rank of 0 to size-1 and 1 to 4096 ranks.");
  for (const size_t length : {size_t{0}, size_t{256}})
    EXPECT_EQ(refusal(0, 2, std::string(length, 'x')),
              "make_process_rank: address has " + std::to_string(length) +
                  " characters, need 1 to 255. Shorten it.");
}

// As torchrun starts them: rank 0 gathers what the others say and hands the whole to all.
TEST(ProcessRanks, FindEachOtherByTheVariablesOfALauncher) {
  for (const int size : {1, 2, 5}) {
    const int port = testing::free_master_port();
    testing::ForkedRanks ranks(size, [&](int rank) {
      const auto say = [](const char* name, int value) {
        ::setenv(name, std::to_string(value).c_str(), 1);
      };
      say("RANK", rank);
      say("WORLD_SIZE", size);
      say("MASTER_PORT", port);
      ::setenv("MASTER_ADDR", "127.0.0.1", 1);
      const auto comm = make_process_rank();
      std::vector<int32_t> all(static_cast<size_t>(size));
      const int32_t mine = 100 + rank;
      comm->all_gather(Tensor(all.data(), {size}), ConstTensor(&mine, {1}), nullptr);
      for (int r = 0; r < size; ++r)
        if (all[static_cast<size_t>(r)] != 100 + r) throw Error(Errc::Transport, "other ranks");
      meet(*comm);
    });
    for (int r = 0; r < size; ++r) EXPECT_TRUE(ranks.finished(r)) << r << " of " << size;
  }
}

TEST(ProcessRanks, WhoLeavesIsNamedWhereItIsNeeded) {
  testing::GatherTable table;
  std::atomic<bool> told = false;
  std::jthread leaves([&] { meet(*make_process_rank(1, 2, table.of(1, 2))); });
  const auto comm = make_process_rank(0, 2, table.of(0, 2));
  meet(*comm);
  const auto watch = comm->when_over([&] { told = true; });
  leaves.join();
  while (!told) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_NE(comm->failure_reason().find("rank 1 left"), std::string::npos)
      << comm->failure_reason();
  std::atomic<int> told_at_once = 0;
  const auto late = comm->when_over([&] { ++told_at_once; });
  EXPECT_EQ(told_at_once, 1);
  try {
    meet(*comm);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("rank 1 left"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace switchyard
