// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/dispatcher/peer_processes_test.cc -- ranks that are processes and reach into each other's
// memory, on a CPU whose memory can be opened as a GPU's: the same bits as threads, peers that die
// or stop, and windows that nobody frees too early.
#include <gtest/gtest.h>

#include "comm/handshake.h"
#include "testing/forked_ranks.h"
#include "testing/peer_dispatch.h"
#include "testing/shared_memory.h"

namespace switchyard::testing {
namespace {

using Milliseconds = std::chrono::milliseconds;
constexpr std::chrono::seconds kLong{20};  // less than the deadlines that are not meant to be met

struct Text {
  char text[1000] = {};
  void operator=(const std::string& s) { s.copy(text, sizeof text - 1); }
};

// Child processes as ranks; what `body` returns is what it has against it.
class PeerProcesses : public ::testing::Test {
 protected:
  using Body = std::function<std::string(Communicator&, const std::shared_ptr<Backend>&)>;

  // Ranks of `lost` do not return.
  void run(int num_ranks, Milliseconds deadline, const Body& body,
           const std::vector<int>& lost = {}) {
    new (&counts_[0]) SharedCounts;
    const SharedGather gather;
    const SharedArray<Text> said(static_cast<size_t>(num_ranks));
    ForkedRanks children(num_ranks, [&](int rank) {
      ProcessRankOptions options;
      options.deadline = deadline;
      const auto comm = make_process_rank(rank, num_ranks, gather.of(rank, num_ranks), options);
      said[static_cast<size_t>(rank)] = body(*comm, std::make_shared<SharedCpuBackend>(counts()));
    });
    for (int r = 0; r < num_ranks; ++r) {
      if (std::find(lost.begin(), lost.end(), r) != lost.end()) continue;
      EXPECT_TRUE(children.finished(r)) << "rank " << r;
      EXPECT_STREQ(said[static_cast<size_t>(r)].text, "") << "rank " << r;
    }
  }
  SharedCounts& counts() { return counts_[0]; }

 private:
  SharedArray<SharedCounts> counts_{1};
};

TEST_F(PeerProcesses, GiveTheBitsOfThreads) {
  for (const int num_ranks : {2, 4}) {
    auto cases = dispatch_cases(num_ranks, 64);
    const auto low_latency = low_latency_cases(num_ranks, 64);
    cases.insert(cases.end(), low_latency.begin(), low_latency.end());
    for (auto& c : f8_dispatch_cases(num_ranks, 264)) cases.push_back(std::move(c));
    for (auto& c : f8_low_latency_cases(num_ranks, 264)) cases.push_back(std::move(c));
    for (auto& c : cases) {
      const auto expected = expected_outcomes(c);
      c.options.peer_memory = true;
      run(num_ranks, Milliseconds(30000), [&](Communicator& comm, const auto& backend) {
        const auto mine = static_cast<size_t>(comm.rank());
        return difference(c, {expected[mine]}, {run_dispatch(c, comm, backend, nullptr)});
      });
      ASSERT_FALSE(HasFailure()) << name_of(c);
      EXPECT_EQ(counts().opened, 0);
      EXPECT_EQ(counts().allocated, 0);
      EXPECT_EQ(counts().freed_while_opened, 0);
    }
  }
}

// A dispatcher over `memory`, which may hold the windows of several.
struct Rank {
  Rank(Communicator& comm, const std::shared_ptr<Backend>& backend,
       std::shared_ptr<void> memory_ = nullptr, size_t offset = 0,
       DispatcherKind kind = DispatcherKind::Normal)
      : dispatcher(make_dispatcher(dispatch_config(64, 24, 2),
                                   {.kind = kind, .tp_size = 1, .peer_memory = true}, comm,
                                   backend)),
        bytes(dispatcher->workspace_bytes(8)),
        memory(memory_ ? memory_ : allocate(*backend, bytes)),
        workspace{static_cast<std::byte*>(memory.get()) + offset, bytes},
        x(random_bf16({8, 64}, 1)),
        ids(random_ids(8, 24, 2, Skew::Balanced, 2)),
        weights(random_f32({8, 2}, 3)),
        out({8, 64}) {
    dispatcher->connect(workspace, 8, memory);
  }
  // A whole call; the status after it.
  StatusWords call() {
    Tensor status(words, {kStatusWords});
    const auto sent =
        dispatcher->dispatch(workspace, x.view(), ids.view(), weights.view(), 8, status, nullptr);
    dispatcher->combine(out.view(), dispatcher->sum_experts({}, sent, {}, nullptr), sent, {},
                        status, nullptr);
    return {words[0], words[1], words[2], words[3]};
  }

  std::unique_ptr<Dispatcher> dispatcher;
  size_t bytes;
  std::shared_ptr<void> memory;
  Workspace workspace;
  Buffer<Bf16> x;
  Buffer<int32_t> ids;
  Buffer<float> weights;
  Buffer<Bf16> out;
  int32_t words[kStatusWords] = {};
};

TEST_F(PeerProcesses, OpenAnAllocationOnceForAllWindowsInIt) {
  run(2, Milliseconds(30000), [&](Communicator& comm, const auto& backend) -> std::string {
    constexpr size_t kOffset = size_t{1} << 20;
    const auto memory = allocate(*backend, 2 * kOffset);
    Rank a(comm, backend, memory);
    Rank b(comm, backend, memory, kOffset);
    if (!a.call().good() || !b.call().good()) return "a call failed";
    meet(comm);
    if (counts().calls_of_open != 2) return "opened " + std::to_string(counts().calls_of_open);
    meet(comm);
    a.dispatcher.reset();
    return b.call().good() ? "" : "b went with a";
  });
  EXPECT_EQ(counts().opened, 0);
  EXPECT_EQ(counts().freed_while_opened, 0);
}

TEST_F(PeerProcesses, OneWhoLeavesEarlyDoesNotWaitAndItsWindowStays) {
  run(2, Milliseconds(30000), [&](Communicator& comm, const auto& backend) -> std::string {
    std::optional<Rank> rank(std::in_place, comm, backend);
    if (!rank->call().good()) return "a call failed";
    if (comm.rank() == 1) {
      meet(comm);  // rank 0's is gone by now
      if (counts().allocated < 2) return "the window of rank 0 is gone";
      rank.reset();
      meet(comm);
      return "";
    }
    const auto start = std::chrono::steady_clock::now();
    rank.reset();
    if (std::chrono::steady_clock::now() - start > kLong) return "it waited";
    meet(comm);
    meet(comm);
    const int before = counts().allocated;
    allocate(*backend, 1);  // an allocation first frees what peers are done with
    return counts().allocated < before ? "" : "its window stays for ever";
  });
  EXPECT_EQ(counts().allocated, 0);
  EXPECT_EQ(counts().freed_while_opened, 0);
}

std::string check_lost(const StatusWords& status, int rank, int32_t why) {
  const bool right = status.code == static_cast<int32_t>(Errc::Transport) && status.value == why &&
                     (why == kGivenUpByHost || status.rank == rank);
  return right ? "" : status_message(status);
}

// Calls until one fails.
StatusWords call_until_failure(Rank& rank) {
  while (true)
    if (const auto status = rank.call(); !status.good()) return status;
}

TEST_F(PeerProcesses, APeerThatIsKilledEndsEveryWaitAtOnceTenTimes) {
  for (int round = 0; round < 10; ++round) {
    run(3, Milliseconds(30000),
        [&](Communicator& comm, const auto& backend) -> std::string {
          const auto kind = round % 2 == 0 ? DispatcherKind::Normal : DispatcherKind::LowLatency;
          std::optional<Rank> rank(std::in_place, comm, backend, nullptr, 0, kind);
          if (!rank->call().good()) return "a call failed";
          if (comm.rank() == 1) raise(SIGKILL);
          const auto start = std::chrono::steady_clock::now();
          const auto status = call_until_failure(*rank);
          if (std::chrono::steady_clock::now() - start > kLong) return "late";
          if (const auto text = check_lost(status, 1, kGivenUpByHost); !text.empty()) return text;
          const auto reason = await_reason(comm, Milliseconds(1000));
          comm.abort(reason);  // as a layer does
          const std::weak_ptr<void> window = rank->memory;
          rank.reset();
          while (!window.expired() && std::chrono::steady_clock::now() - start < kLong)
            allocate(*backend, 1);
          if (!window.expired()) return "its window is kept for a dead rank";
          return reason.find("rank 1 left") != std::string::npos ? "" : "reason: " + reason;
        },
        {1});
  }
}

TEST_F(PeerProcesses, APeerThatIsStoppedIsNamedAfterTheDeadlineAndNobodyHangs) {
  run(3, Milliseconds(500),
      [&](Communicator& comm, const auto& backend) -> std::string {
        std::optional<Rank> rank(std::in_place, comm, backend);
        if (!rank->call().good()) return "a call failed";
        if (comm.rank() == 1) raise(SIGSTOP);
        const auto text = check_lost(call_until_failure(*rank), 1, 1);
        if (!text.empty()) return text;
        comm.abort("as a layer does");
        rank.reset();
        return "";
      },
      {1});
  EXPECT_EQ(counts().freed_while_opened, 0) << "a window that the stopped rank has open";
}

TEST_F(PeerProcesses, WindowsThatDifferAreRefusedOnEveryRankAndFreed) {
  run(3, Milliseconds(30000), [&](Communicator& comm, const auto& backend) -> std::string {
    const auto dispatcher = make_dispatcher(
        dispatch_config(64, 24, 2),
        {.kind = DispatcherKind::Normal, .tp_size = 1, .peer_memory = true}, comm, backend);
    const int64_t max_tokens = comm.rank() == 1 ? 16 : 8;
    const size_t bytes = dispatcher->workspace_bytes(max_tokens);
    const auto memory = allocate(*backend, bytes);
    try {
      dispatcher->connect({memory.get(), bytes}, max_tokens, memory);
      return "connected";
    } catch (const Error& e) {
      return e.code() == Errc::ShapeMismatch ? "" : e.what();
    }
  });
  EXPECT_EQ(counts().allocated, 0);
  EXPECT_EQ(counts().freed_while_opened, 0);
}

TEST_F(PeerProcesses, MemoryThatOthersCannotOpenIsRefusedOnEveryRank) {
  run(2, Milliseconds(30000), [&](Communicator& comm, const auto&) -> std::string {
    try {
      const Rank rank(comm, make_cpu_backend(1));
      return "connected";
    } catch (const Error& e) {
      const bool right = e.code() == Errc::Unsupported &&
                         std::string(e.what()).find("device=cpu") != std::string::npos;
      return right ? "" : e.what();
    }
  });
}

// The same transport, but both ranks live here: nothing needs to be opened.
TEST_F(PeerProcesses, RanksOfOneProcessReachEachOtherDirectly) {
  auto c = dispatch_cases(2, 64).front();
  const auto expected = expected_outcomes(c);
  c.options.peer_memory = true;
  const SharedGather gather;
  std::vector<std::string> said(2);
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < 2; ++r)
      threads.emplace_back([&, r] {
        const auto comm = make_process_rank(r, 2, gather.of(r, 2));
        const auto backend = std::make_shared<SharedCpuBackend>(counts());
        const auto mine = static_cast<size_t>(r);
        said[mine] = difference(c, {expected[mine]}, {run_dispatch(c, *comm, backend, nullptr)});
      });
  }
  EXPECT_EQ(said, std::vector<std::string>(2));
  EXPECT_EQ(counts().calls_of_open, 0);
  EXPECT_EQ(counts().allocated, 0);
}

}  // namespace
}  // namespace switchyard::testing
