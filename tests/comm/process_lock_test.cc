// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/process_lock_test.cc -- a lock ends when it is released, and when
// its process ends.
#include "comm/peer_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "switchyard/error.h"
#include "testing/forked_ranks.h"

namespace switchyard {
namespace {

using testing::ForkedRanks;
using testing::SharedArray;

TEST(ProcessLock, IsHeldUntilItIsReleased) {
  ProcessLock lock;
  const PeerProcessLock seen(lock.place(), "rank 1"), seen_again(lock.place(), "rank 1");
  EXPECT_TRUE(seen.held() && seen_again.held());
  EXPECT_TRUE(seen.held()) << "looking takes nothing";
  lock.release();
  EXPECT_FALSE(seen.held());
  EXPECT_FALSE(seen_again.held());
}

TEST(ProcessLock, OfAProcessThatIsKilledIsGoneAndOfOneThatIsStoppedIsNot) {
  struct Shared {
    std::atomic<bool> ready{false}, seen{false};
    ProcessLock::Place place;
  };
  for (const int signal : {SIGKILL, SIGSTOP}) {
    const SharedArray<Shared> shared(1);
    ForkedRanks children(1, [&](int) {
      const ProcessLock lock;
      shared[0].place = lock.place();
      shared[0].ready = true;
      while (!shared[0].seen) std::this_thread::yield();
      raise(signal);
    });
    while (!shared[0].ready) std::this_thread::yield();
    const PeerProcessLock lock(shared[0].place, "rank 1");
    EXPECT_TRUE(lock.held());
    shared[0].seen = true;
    if (signal == SIGSTOP) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_TRUE(lock.held());
      continue;
    }
    EXPECT_FALSE(children.finished(0)) << "it was killed";
    EXPECT_FALSE(lock.held());
  }
}

TEST(ProcessLock, OfAnotherProcessThanTheOneMeantIsRefused) {
  const ProcessLock lock;
  auto elsewhere = lock.place();
  ++elsewhere.inode;
  EXPECT_THROW(PeerProcessLock(elsewhere, "rank 1"), Error);
  elsewhere.fd = 100000;
  try {
    const PeerProcessLock none(elsewhere, "rank 1");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_NE(std::string(e.what()).find("rank 1 is process"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace switchyard
