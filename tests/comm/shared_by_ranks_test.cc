// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/shared_by_ranks_test.cc -- what ranks share is the same thing on all of them, whoever
// let go of it when.
#include "comm/shared_by_ranks.h"

#include <gtest/gtest.h>

#include <atomic>

namespace switchyard::testing {
namespace {

constexpr int kRanks = 3;

struct Thing {
  explicit Thing(int made_as) : made_as(made_as) {}
  bool is_open() const { return open; }
  int made_as;  // the same on every rank
  bool open = true;
};

// As NCCL's links are: one registry for all ranks of the process.
class SharedThings : public ::testing::Test {
 protected:
  std::shared_ptr<Thing> get(Communicator& comm, int device = 0) {
    return things_.get(comm, device, [&] {
      const int32_t mine = comm.rank() == 0 ? ++made_ : 0;
      std::vector<int32_t> all(kRanks);
      comm.all_gather(Tensor(all.data(), {kRanks}), ConstTensor(&mine, {1}), nullptr);
      return std::make_shared<Thing>(all[0]);
    });
  }
  SharedByRanks<Thing> things_;
  std::atomic<int> made_{0};
};

TEST_F(SharedThings, AreMadeOnce) {
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto first = get(comm);
    EXPECT_EQ(get(comm), first);
    EXPECT_EQ(first->made_as, 1);
  });
  EXPECT_EQ(made_, 1);
}

TEST_F(SharedThings, BelongToACommunicatorAndADevice) {
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto group = comm.split(0);
    const auto first = get(comm), second = get(comm, 1), third = get(*group);
    EXPECT_EQ(first->made_as, 1);
    EXPECT_EQ(second->made_as, 2);
    EXPECT_EQ(third->made_as, 3);
    EXPECT_EQ(get(comm), first);
  });
}

TEST_F(SharedThings, AreMadeAnewOnceNobodyHasThem) {
  run_local_ranks(kRanks, [&](Communicator& comm) {
    EXPECT_EQ(get(comm)->made_as, 1);
    EXPECT_EQ(get(comm)->made_as, 2);
  });
}

TEST_F(SharedThings, AreMadeAnewWhereTheyAreOverOnOneRank) {
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto first = get(comm);
    if (comm.rank() == 1) first->open = false;
    const auto second = get(comm);
    EXPECT_EQ(second->made_as, 2);
    EXPECT_EQ(get(comm), second);
  });
}

// Every rank destroys a layer and makes one, but not all in this order.
TEST_F(SharedThings, AreMadeAnewWhereOneRankLetGo) {
  for (int alone = 0; alone < kRanks; ++alone) {
    made_ = 0;
    run_local_ranks(kRanks, [&](Communicator& comm) {
      auto first = get(comm);
      if (comm.rank() == alone) first.reset();
      const auto second = get(comm);
      EXPECT_EQ(second->made_as, 2);
      first.reset();
      EXPECT_EQ(get(comm), second);
    });
  }
}

TEST_F(SharedThings, ThatCannotBeMadeAreNotKept) {
  run_local_ranks(kRanks, [&](Communicator& comm) {
    EXPECT_THROW(
        things_.get(comm, 0,
                    []() -> std::shared_ptr<Thing> { throw Error(Errc::Unsupported, "no"); }),
        Error);
    EXPECT_EQ(get(comm)->made_as, 1);
  });
}

}  // namespace
}  // namespace switchyard::testing
