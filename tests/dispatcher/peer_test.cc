// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/dispatcher/peer_test.cc -- ranks that reach into each other's memory, as threads on the
// CPU: the protocol that kernels follow on a GPU, where the thread sanitizer can see it.
#include <gtest/gtest.h>

#include <latch>
#include <thread>

#include "base/peer_control.h"
#include "testing/peer_dispatch.h"

namespace switchyard::testing {
namespace {

AllOutcomes on_threads(DispatchCase c, LocalRanksOptions options = {}) {
  c.options.peer_memory = true;
  AllOutcomes all(static_cast<size_t>(c.num_ranks));
  run_local_ranks(
      c.num_ranks,
      [&](Communicator& comm) {
        all[static_cast<size_t>(comm.rank())] = run_dispatch(c, comm, make_cpu_backend(1), nullptr);
      },
      options);
  return all;
}

class PeerDispatch : public ::testing::TestWithParam<DispatchCase> {};
std::vector<DispatchCase> cases() {
  std::vector<DispatchCase> all;
  for (const int num_ranks : {2, 3, 4, 8}) {
    auto some = dispatch_cases(num_ranks, 64);
    const auto low_latency = low_latency_cases(num_ranks, 64);
    some.insert(some.end(), low_latency.begin(), low_latency.end());
    const auto quantised = f8_dispatch_cases(num_ranks, 264);  // groups that end inside a row
    some.insert(some.end(), quantised.begin(), quantised.end());
    for (auto& c : f8_low_latency_cases(num_ranks, 264)) some.push_back(std::move(c));
    // 8 experts do not split over 3 ranks, nor over a group of 3.
    if (num_ranks == 3) {
      for (auto& c : some) c.config.num_experts = 9;
      std::erase_if(some, [](const auto& c) { return c.options.tp_size == 2; });
    }
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, PeerDispatch, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(PeerDispatch, GivesTheBitsOfTheCommunicator) {
  const auto expected = expected_outcomes(GetParam());
  EXPECT_EQ(difference(GetParam(), expected, on_threads(GetParam())), "");
  auto ordered = GetParam();
  ordered.options.host_ordered = true;
  EXPECT_EQ(difference(ordered, expected, on_threads(ordered)), "") << "ordered by the host";
}

TEST(PeerDispatchStress, ManyCallsOfAnyBoundOnOneWorkspace) {
  for (const int num_ranks : {2, 4}) {
    const auto c = random_calls(num_ranks, 200, 24, 5 + static_cast<uint64_t>(num_ranks));
    EXPECT_EQ(difference(c, expected_outcomes(c), on_threads(c)), "") << num_ranks << " ranks";
  }
}

// The owner of the rows writes the next ones while its peers are still at the last call.
TEST(PeerDispatchStress, ManyCallsOnRowsThatStandInTheWindow) {
  for (const int num_ranks : {2, 4}) {
    auto c = random_calls(num_ranks, 200, 24, 51 + static_cast<uint64_t>(num_ranks));
    c.options.fetch_rows = c.in_place = true;
    c.leave_out_own_rows();
    EXPECT_EQ(difference(c, expected_outcomes(c), on_threads(c)), "") << num_ranks << " ranks";
  }
}

TEST(PeerDispatchStress, ManyCallsOfRowsInF8) {
  for (const uint64_t seed : {60, 61}) {  // pushed, fetched
    auto c = random_calls(4, 100, 24, seed);
    c.options.rows = DType::F8E4m3;
    c.f8_experts = true;
    EXPECT_EQ(difference(c, expected_outcomes(c), on_threads(c)), "") << seed;
  }
}

TEST(PeerDispatchStress, ManyLowLatencyCallsOfRowsInF8) {
  for (const int num_ranks : {2, 4}) {
    auto c = random_calls(num_ranks, 200, 24, 71 + static_cast<uint64_t>(num_ranks));
    c.config.hidden = 272;
    c.options.kind = DispatcherKind::LowLatency;
    c.options.rows = DType::F8E4m3;
    c.f8_experts = c.odd_rows = true;
    EXPECT_EQ(difference(c, expected_outcomes(c), on_threads(c)), "") << num_ranks << " ranks";
  }
}

TEST(PeerDispatchStress, EpochsCrossTheEndOfTheirRange) {
  for (const auto kind : {DispatcherKind::Normal, DispatcherKind::LowLatency}) {
    auto c = random_calls(3, 12, 24, 29);
    c.config.num_experts = 9;
    c.options.kind = kind;
    c.first_epoch = 0xfffffffau;
    EXPECT_EQ(difference(c, expected_outcomes(c), on_threads(c)), "") << dispatcher_name(kind);
  }
}

TEST(PeerDispatchStress, ManyLowLatencyCallsOfAnyBoundOnOneWorkspace) {
  for (const int num_ranks : {2, 4}) {
    auto c = random_calls(num_ranks, 200, 24, 61 + static_cast<uint64_t>(num_ranks));
    c.options.kind = DispatcherKind::LowLatency;
    EXPECT_EQ(difference(c, expected_outcomes(c), on_threads(c)), "") << num_ranks << " ranks";
  }
}

TEST(PeerDispatchErrors, BoundsThatDifferAreNotedOnEveryRank) {
  for (const auto kind : {DispatcherKind::Normal, DispatcherKind::LowLatency}) {
    SCOPED_TRACE(dispatcher_name(kind));
    const auto config = dispatch_config(64, 8, 2);
    std::vector<StatusWords> seen(2);
    run_local_ranks(2, [&](Communicator& comm) {
      DispatchCase c;
      c.config = config;
      c.options.kind = kind;
      c.options.peer_memory = true;
      c.calls.push_back({{4, 4}, Skew::Balanced, 1, 8 + comm.rank()});
      c.calls.push_back({{4, 4}, Skew::Balanced, 1, 8});
      const auto outcomes = run_dispatch(c, comm, make_cpu_backend(1), nullptr);
      seen[static_cast<size_t>(comm.rank())] = outcomes[0].status;
      EXPECT_TRUE(outcomes[1].status.good()) << "the next call is good";
    });
    for (const auto& s : seen) {
      EXPECT_EQ(s.detail, static_cast<int32_t>(StatusDetail::MaxTokensDiffer));
      EXPECT_EQ(s.rank, 1);
      EXPECT_EQ(s.value, 9);
    }
  }
}

// Over messages, and where ranks reach each other's memory.
void expect_placements_compared(DispatcherKind kind, bool peer_memory) {
  std::vector<StatusWords> seen(2);
  run_local_ranks(2, [&](Communicator& comm) {
    const int32_t same = 40 + comm.rank(), other = 40 + 2 * comm.rank();
    DispatchCase c;
    c.config = dispatch_config(64, 8, 2);
    c.options.kind = kind;
    c.options.peer_memory = peer_memory;
    c.calls.push_back({{4, 4}, Skew::Balanced, 1});
    c.options.placement = ConstTensor(&same, {1});
    EXPECT_TRUE(run_dispatch(c, comm, make_cpu_backend(1), nullptr)[0].status.good())
        << "one table's contents, in either place";
    c.options.placement = ConstTensor(&other, {1});
    seen[static_cast<size_t>(comm.rank())] =
        run_dispatch(c, comm, make_cpu_backend(1), nullptr)[0].status;
  });
  for (const auto& s : seen) {
    EXPECT_EQ(s.detail, static_cast<int32_t>(StatusDetail::PlacementsDiffer));
    EXPECT_EQ(s.rank, 1);
    EXPECT_EQ(s.value, 42);
  }
}

TEST(PeerDispatchErrors, PlacementsThatDifferAreNotedOnEveryRank) {
  for (const auto kind : {DispatcherKind::Normal, DispatcherKind::LowLatency})
    for (const bool peer_memory : {true, false}) {
      SCOPED_TRACE(std::string(dispatcher_name(kind)) + (peer_memory ? ", peers" : ", messages"));
      expect_placements_compared(kind, peer_memory);
    }
}

// One rank's side, taken apart so that a rank can stop between the two halves.
struct Rank {
  explicit Rank(Communicator& comm, bool fetch_rows = false, int tp_size = 1,
                DispatcherKind kind = DispatcherKind::Normal)
      : backend(make_cpu_backend(1)),
        dispatcher(make_dispatcher(
            dispatch_config(64, 24, 2),
            {.kind = kind, .tp_size = tp_size, .peer_memory = true, .fetch_rows = fetch_rows}, comm,
            backend)),
        bytes(dispatcher->workspace_bytes(8)),
        memory(allocate(*backend, bytes)),
        x(random_bf16({8, 64}, 1)),
        ids(random_ids(8, 24, 2, Skew::Balanced, 2)),
        weights(random_f32({8, 2}, 3)),
        out({8, 64}) {
    dispatcher->connect(workspace(), 8, memory);
  }
  Workspace workspace() const { return {memory.get(), bytes}; }
  Tensor place() const { return dispatcher->input_rows(workspace()); }
  StatusWords dispatch() { return dispatch(x.view()); }
  StatusWords dispatch(ConstTensor hidden) {
    call = dispatcher->dispatch(workspace(), hidden, ids.view(), weights.view(), 8,
                                Tensor(words, {kStatusWords}), nullptr);
    return status();
  }
  StatusWords combine() {
    dispatcher->combine(out.view(), dispatcher->sum_experts({}, call, {}, nullptr), call, {},
                        Tensor(words, {kStatusWords}), nullptr);
    return status();
  }
  StatusWords status() const { return {words[0], words[1], words[2], words[3], words[4]}; }

  std::shared_ptr<Backend> backend;
  std::unique_ptr<Dispatcher> dispatcher;
  size_t bytes;
  std::shared_ptr<void> memory;
  Buffer<Bf16> x;
  Buffer<int32_t> ids;
  Buffer<float> weights;
  Buffer<Bf16> out;
  DispatchedCall call;
  int32_t words[kStatusWords] = {};
};

TEST(PeerDispatchErrors, HiddenStatesThatOverlapTheirPlaceAreRefusedBeforeAnythingMoves) {
  run_local_ranks(2, [](Communicator& comm) {
    Rank rank(comm, true);
    ASSERT_EQ(rank.place().shape, (Shape{8, 64}));
    try {
      rank.dispatch(rank.place().rows(1, 8));
      ADD_FAILURE() << "not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::ShapeMismatch) << e.what();
      EXPECT_NE(std::string(e.what()).find("overlaps input_rows"), std::string::npos) << e.what();
    }
    EXPECT_TRUE(rank.dispatch().good()) << "the next call is good";
    EXPECT_TRUE(rank.combine().good());
  });
}

TEST(PeerDispatchErrors, OnlyWhoFetchesRowsHasAPlaceForThem) {
  run_local_ranks(2, [](Communicator& comm) {
    for (const bool fetch : {false, true})
      for (const int tp_size : {1, 2})
        EXPECT_EQ(Rank(comm, fetch, tp_size).place().present(), fetch && tp_size == 1);
  });
}

void expect_that_a_missing_rank_is_named(DispatcherKind kind) {
  for (const bool comes_to_dispatch : {false, true}) {
    std::vector<StatusWords> seen(3);
    run_local_ranks(3,
                    [&](Communicator& comm) {
                      Rank rank(comm, false, 1, kind);
                      const bool missing = comm.rank() == 1;
                      if (!missing || comes_to_dispatch) rank.dispatch();
                      if (!missing) seen[static_cast<size_t>(comm.rank())] = rank.combine();
                    },
                    {.deadline = std::chrono::milliseconds(200)});
    for (const int r : {0, 2}) {
      const auto& s = seen[static_cast<size_t>(r)];
      EXPECT_EQ(s.code, static_cast<int32_t>(Errc::Transport));
      EXPECT_EQ(s.rank, 1) << status_message(s);
      EXPECT_NE(status_message(s).find(comes_to_dispatch ? "partial rows of rank 1 did not come"
                                                         : "dispatch: rows of rank 1 did not come"),
                std::string::npos)
          << status_message(s);
    }
  }
}

TEST(PeerDispatchErrors, ARankThatNeverComesIsNamedByTheOthersWithinTheDeadline) {
  for (const auto kind : {DispatcherKind::Normal, DispatcherKind::LowLatency}) {
    SCOPED_TRACE(dispatcher_name(kind));
    expect_that_a_missing_rank_is_named(kind);
  }
}

TEST(PeerDispatchErrors, AnAbortEndsAWaitAtOnceAndTheWindowStaysOver) {
  std::vector<StatusWords> seen(2);
  const auto start = std::chrono::steady_clock::now();
  auto ranks = make_local_ranks(2);
  std::latch waited(1);
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < 2; ++r)
      threads.emplace_back([&, r] {
        Rank rank(*ranks[static_cast<size_t>(r)]);
        if (r == 1) {
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
          ranks[1]->abort("enough");
          waited.wait();  // or it would have come before the other looked
        }
        seen[static_cast<size_t>(r)] = rank.dispatch();
        if (r == 0) waited.count_down();
      });
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  for (const auto& s : seen) {
    EXPECT_EQ(s.code, static_cast<int32_t>(Errc::Transport));
    EXPECT_EQ(s.value, kGivenUpByHost);
  }
}

TEST(PeerDispatchErrors, AWorkspaceThatPeersDoNotKnowIsRefused) {
  auto ranks = make_local_ranks(2);
  const auto dispatcher =
      make_dispatcher(dispatch_config(64, 8, 2),
                      {.kind = DispatcherKind::Normal, .tp_size = 1, .peer_memory = true},
                      *ranks[0], make_cpu_backend(1));
  Buffer<int32_t> status({kStatusWords});
  const Tensor x(nullptr, DType::Bf16, {0, 64}), ids(nullptr, DType::I32, {0, 2}),
      weights(nullptr, DType::F32, {0, 2});
  EXPECT_THROW(dispatcher->dispatch({}, x, ids, weights, 8, status.view(), nullptr), Error);
}

TEST(PeerControl, EpochsGrowAcrossTheEndOfTheirRange) {
  EXPECT_TRUE(has_come(epoch_word(5, -7), 5));
  EXPECT_EQ(word_value(epoch_word(5, -7)), -7);
  EXPECT_FALSE(has_come(epoch_word(4, 1), 5));
  EXPECT_TRUE(has_come(epoch_word(6, 1), 5));
  EXPECT_FALSE(has_come(epoch_word(0xffffffffu, 1), 0));  // the last epoch before the first again
  EXPECT_TRUE(has_come(epoch_word(0, 1), 0xffffffffu));
  EXPECT_EQ(lost_rank(lost_word(3, 12)), 12);
  EXPECT_EQ(lost_why(lost_word(3, 12)), 3);
}

}  // namespace
}  // namespace switchyard::testing
