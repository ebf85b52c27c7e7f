// tests/comm/lease_test.cc -- a lease ends when it is given back, and when its process ends.
#include "comm/lease.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "switchyard/error.h"
#include "testing/forked_ranks.h"

namespace switchyard {
namespace {

using testing::ForkedRanks;
using testing::SharedArray;

TEST(Lease, IsHeldUntilItIsGivenBack) {
  Lease lease;
  const PeerLease seen(lease.place(), "rank 1"), seen_again(lease.place(), "rank 1");
  EXPECT_TRUE(seen.held() && seen_again.held());
  EXPECT_TRUE(seen.held()) << "looking takes nothing";
  lease.give_back();
  EXPECT_FALSE(seen.held());
  EXPECT_FALSE(seen_again.held());
}

TEST(Lease, OfAProcessThatIsKilledIsGoneAndOfOneThatIsStoppedIsNot) {
  struct Shared {
    std::atomic<bool> ready{false}, seen{false};
    Lease::Place place;
  };
  for (const int signal : {SIGKILL, SIGSTOP}) {
    const SharedArray<Shared> shared(1);
    ForkedRanks children(1, [&](int) {
      const Lease lease;
      shared[0].place = lease.place();
      shared[0].ready = true;
      while (!shared[0].seen) std::this_thread::yield();
      raise(signal);
    });
    while (!shared[0].ready) std::this_thread::yield();
    const PeerLease lease(shared[0].place, "rank 1");
    EXPECT_TRUE(lease.held());
    shared[0].seen = true;
    if (signal == SIGSTOP) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_TRUE(lease.held());
      continue;
    }
    EXPECT_FALSE(children.finished(0)) << "it was killed";
    EXPECT_FALSE(lease.held());
  }
}

TEST(Lease, OfAnotherProcessThanTheOneMeantIsRefused) {
  const Lease lease;
  auto elsewhere = lease.place();
  ++elsewhere.inode;
  EXPECT_THROW(PeerLease(elsewhere, "rank 1"), Error);
  elsewhere.fd = 100000;
  try {
    const PeerLease none(elsewhere, "rank 1");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_NE(std::string(e.what()).find("rank 1 is process"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace switchyard
