// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/processes_test.cc -- ranks as processes: the same bits as threads, and every way in
// which a rank can fail, ten times each.
#include <gtest/gtest.h>

#include "layer/rank_outputs.h"
#include "testing/forked_ranks.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::ForkedRanks;
using testing::free_master_port;
using testing::Seen;
using testing::SharedArray;
using testing::SharedGather;

TEST(Processes, GiveTheBitsOfThreads) {
  for (const int ranks : {2, 4}) {
    const auto expected = testing::thread_outputs(ranks);
    const SharedGather gather;
    SharedArray<char> same(static_cast<size_t>(ranks));
    ForkedRanks children(ranks, [&](int rank) {
      const auto comm = make_process_rank(rank, ranks, gather.of(rank, ranks));
      const auto mine = static_cast<size_t>(rank);
      same[mine] = testing::rank_outputs(*comm) == expected[mine];
    });
    for (int r = 0; r < ranks; ++r) {
      EXPECT_TRUE(children.finished(r));
      EXPECT_TRUE(same[static_cast<size_t>(r)]) << "rank " << r << " of " << ranks;
    }
  }
}

TEST(Processes, FindEachOtherAsTorchrunNamesThem) {
  const auto expected = testing::thread_outputs(2);
  const std::string port = std::to_string(free_master_port());
  SharedArray<char> same(2);
  ForkedRanks children(2, [&](int rank) {
    setenv("RANK", std::to_string(rank).c_str(), 1);
    setenv("WORLD_SIZE", "2", 1);
    setenv("MASTER_ADDR", "localhost", 1);
    setenv("MASTER_PORT", port.c_str(), 1);
    const auto comm = make_process_rank();
    same[static_cast<size_t>(rank)] =
        testing::rank_outputs(*comm) == expected[static_cast<size_t>(rank)];
  });
  for (int r = 0; r < 2; ++r) EXPECT_TRUE(children.finished(r) && same[static_cast<size_t>(r)]);
}

TEST(Processes, AMissingVariableOrPeerIsNamed) {
  unsetenv("RANK");
  unsetenv("WORLD_SIZE");
  try {
    make_process_rank();
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("WORLD_SIZE is not set"), std::string::npos);
  }
  setenv("WORLD_SIZE", "two", 1);
  EXPECT_THROW(make_process_rank(), Error);
  setenv("WORLD_SIZE", "2", 1);
  setenv("RANK", "1", 1);
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  setenv("MASTER_PORT", std::to_string(free_master_port()).c_str(), 1);
  ProcessRankOptions options;
  options.deadline = std::chrono::milliseconds(200);
  try {
    make_process_rank(options);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Transport);
    EXPECT_NE(std::string(e.what()).find("rank 0 at 127.0.0.1"), std::string::npos) << e.what();
  }
  EXPECT_THROW(make_process_rank(2, 2, [](void*, const void*, size_t) {}), Error);
}

// ---- faults of rank 1 of 3

constexpr int kRanks = 3;
constexpr auto kDeadline = std::chrono::milliseconds(1000);

struct Call {
  explicit Call(Communicator& comm, int64_t hidden_size = 128)
      : config(testing::transport_config()),
        hidden(testing::random_bf16({12, hidden_size}, 3)),
        output({12, hidden_size}) {
    config.hidden = hidden_size;
    config.num_experts = 12;
    options.max_tokens = 64;
    options.num_threads = 1;
    layer = MoeLayer::create(config, random_weights(config, comm.size(), comm.rank(), 4), comm,
                             options);
  }
  void forward(int64_t max_tokens = 64) {
    layer->forward({.output = output.view(),
                    .hidden = std::as_const(hidden).view(),
                    .max_tokens = max_tokens});
    layer->wait();
  }
  MoeConfig config;
  LayerOptions options;
  std::unique_ptr<MoeLayer> layer;
  Buffer<Bf16> hidden, output;
};

struct Fault {
  const char* name;
  std::function<void(Communicator&)> rank1;  // what it does instead of forwards
  std::vector<const char*> message;          // parts of what every other rank must see; any of them
};

// Forwards until one fails.
void forward_until_failure(Communicator& comm) {
  Call call(comm);
  while (true) call.forward();
}

const Fault kFaults[] = {
    {"killed before", [](Communicator&) { raise(SIGKILL); }, {"rank 1 left"}},
    {"killed during", [](Communicator& comm) { forward_until_failure(comm); }, {"rank 1 left"}},
    {"killed after",
     [](Communicator& comm) {
       Call call(comm);
       call.forward();
       raise(SIGKILL);
     },
     {"rank 1 left"}},
    {"stopped",
     [](Communicator& comm) {
       Call call(comm);
       call.forward();
       raise(SIGSTOP);
     },
     {"rank 1 did not come within 1000 ms"}},
    {"another shape",
     [](Communicator& comm) { Call call(comm, 136); },
     {"of rank 1 differs from that of rank 0"}},
    {"another bound",
     [](Communicator& comm) {
       Call call(comm);
       while (true) call.forward(63);
     },
     {"max_tokens=63 on rank 1"}},
    {"another order",
     [](Communicator& comm) {
       Call call(comm);
       comm.split(0);
       call.forward();
     },
     {"rank 1 called split", "called all_gather (call"}},
};

// One run of a fault; true when every other rank saw it and went on.
void run_fault(const Fault& fault, int round) {
  const SharedGather gather, second_gather;
  SharedArray<Seen> seen(kRanks);
  SharedArray<std::atomic<int>> ready(1);
  ForkedRanks children(kRanks, [&](int rank) {
    ProcessRankOptions options;
    options.deadline = kDeadline;
    auto comm = make_process_rank(rank, kRanks, gather.of(rank, kRanks), options);
    ++ready[0];
    if (rank == 1) {
      try {
        fault.rank1(*comm);
      } catch (const Error&) {  // its own share of the failure
      }
      return;
    }
    Seen& mine = seen[static_cast<size_t>(rank)];
    const auto start = std::chrono::steady_clock::now();
    try {
      forward_until_failure(*comm);
    } catch (const Error& e) {
      mine.say(e);
    }
    mine.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // The survivors go on with a new communicator.
    const int survivor = rank == 0 ? 0 : 1;
    comm = make_process_rank(survivor, 2, second_gather.of(survivor, 2));
    Call call(*comm);
    call.forward();
    mine.recovered = true;
  });
  if (std::string(fault.name) == "killed during") {
    while (ready[0] < kRanks) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(3 + 2 * round));
    children.kill_rank(1);
  }
  for (const int rank : {0, 2}) {
    const Seen& s = seen[static_cast<size_t>(rank)];
    EXPECT_TRUE(children.finished(rank)) << fault.name << ", rank " << rank;
    EXPECT_TRUE(s.recovered) << fault.name << ", rank " << rank << ": " << s.message;
    EXPECT_LT(s.seconds, 20.0) << fault.name;
    EXPECT_TRUE(std::any_of(fault.message.begin(), fault.message.end(),
                            [&](const char* part) { return s.says(part); }))
        << fault.name << ", rank " << rank << ": " << s.message;
  }
}

class Faults : public ::testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(OfRankOne, Faults, ::testing::Range(size_t{0}, std::size(kFaults)),
                         [](const auto& info) {
                           std::string name = kFaults[info.param].name;
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

TEST_P(Faults, AreSeenByEveryOtherRankTenTimesInARow) {
  for (int round = 0; round < 10; ++round) run_fault(kFaults[GetParam()], round);
}

}  // namespace
}  // namespace switchyard
