// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/watch_test.cc -- ranks that are processes hear that a peer is gone while no operation
// of theirs runs.
#include <gtest/gtest.h>

#include "switchyard/error.h"
#include "testing/forked_ranks.h"

namespace switchyard {
namespace {

using testing::ForkedRanks;
using testing::SharedArray;
using testing::SharedGather;

constexpr auto kLongEnough = std::chrono::seconds(20);

// Whether `word` was set in time, by another thread.
bool is_set(const std::atomic<int>& word) {
  return testing::comes([&] { return word != 0; }, kLongEnough);
}

std::shared_ptr<void> watch(Communicator& comm, std::atomic<int>& word) {
  return comm.when_over([&word] { word = 1; });
}

// Ranks 0 and 2 of three run `survivor`, which returns what it has against it; rank 1 `fault`.
void run_three(const std::function<void(Communicator&)>& fault,
               const std::function<std::string(Communicator&)>& survivor) {
  struct Text {
    char text[512] = {};
  };
  const SharedGather gather;
  const SharedArray<Text> seen(3);
  ForkedRanks children(3, [&](int rank) {
    const auto comm = make_process_rank(rank, 3, gather.of(rank, 3));
    if (rank == 1) return fault(*comm);
    survivor(*comm).copy(seen[static_cast<size_t>(rank)].text, 511);
  });
  for (const int rank : {0, 2}) {
    EXPECT_TRUE(children.finished(rank)) << rank;
    EXPECT_STREQ(seen[static_cast<size_t>(rank)].text, "") << rank;
  }
}

TEST(Watch, IsToldAtOnceThatAPeerWasKilled) {
  run_three(
      [](Communicator& comm) {
        meet(comm);
        raise(SIGKILL);
      },
      [](Communicator& comm) -> std::string {
        std::atomic<int> over{0};
        const auto watching = watch(comm, over);
        meet(comm);
        if (!is_set(over)) return "not told";
        const auto reason = comm.failure_reason();
        comm.abort(reason);  // as a layer does: else the last rank might hear first that we left
        return reason.starts_with("forward: rank 1 left") ? "" : reason;
      });
}

TEST(Watch, IsToldWhyAPeerGaveUp) {
  run_three(
      [](Communicator& comm) {
        comm.abort("enough");
        raise(SIGSTOP);
      },
      [](Communicator& comm) -> std::string {
        std::atomic<int> over{0};
        const auto watching = watch(comm, over);
        if (!is_set(over)) return "not told";
        return comm.failure_reason() == "enough" ? "" : comm.failure_reason();
      });
}

TEST(Watch, ThatComesLateIsToldAtOnce) {
  run_three([](Communicator& comm) { comm.abort("enough"); },
            [](Communicator& comm) -> std::string {
              try {
                meet(comm);
                return "no error";
              } catch (const Error&) {
              }
              std::atomic<int> over{0};
              const auto watching = watch(comm, over);
              return over == 1 ? "" : "not told";
            });
}

// What a peer sent before it left is still received, though somebody has heard that it left.
TEST(Watch, OfAPeerThatLeftInOrderIsNoFailureOfWhatWasSent) {
  run_three([](Communicator& comm) { meet(comm); },
            [](Communicator& comm) -> std::string {
              std::atomic<int> over{0};
              const auto watching = watch(comm, over);
              std::this_thread::sleep_for(std::chrono::milliseconds(50 * comm.rank()));
              meet(comm);
              return "";
            });
}

// Rank 1 is not of the communicator that ranks 0 and 2 split off.
TEST(Watch, HearsNothingOfStrangers) {
  run_three([](Communicator& comm) { comm.split(1); },
            [](Communicator& comm) -> std::string {
              const auto pair = comm.split(0);
              std::atomic<int> over{0}, all_over{0};
              const auto watching = watch(*pair, over), watching_all = watch(comm, all_over);
              if (!is_set(all_over)) return "rank 1 left, and nobody was told";
              meet(*pair);
              const bool told = over != 0;
              const auto reason = pair->failure_reason();
              meet(*pair);  // before that nobody of the pair leaves
              return told ? "told that a stranger left" : reason;
            });
}

TEST(Watch, BeginsAndEndsManyTimes) {
  run_three([](Communicator& comm) { meet(comm); },
            [](Communicator& comm) -> std::string {
              std::atomic<int> over{0};
              for (int i = 0; i < 200; ++i) {
                const auto one = watch(comm, over);
                const auto two = watch(comm, over);
              }
              meet(comm);
              return "";
            });
}

}  // namespace
}  // namespace switchyard
