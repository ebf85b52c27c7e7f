// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/comm/stream_watchdog_test.cc -- when work on a device counts as late.
#include "comm/stream_watchdog.h"

#include <gtest/gtest.h>

namespace switchyard {
namespace {

using std::chrono::milliseconds;
using Clock = StreamWatchdog::Clock;

const Clock::time_point kStart{std::chrono::hours(1)};
constexpr milliseconds kDeadline{100};

Clock::time_point at(int ms) {
  return kStart + milliseconds(ms);
}

TEST(StreamWatchdog, NothingExpectedIsNeverLate) {
  StreamWatchdog p(4);
  EXPECT_FALSE(p.oldest());
  EXPECT_FALSE(p.is_late(at(1000000), kDeadline));
}

TEST(StreamWatchdog, TheDeadlineCountsFromTheMark) {
  StreamWatchdog p(4);
  EXPECT_EQ(p.set(at(50)), 0u);
  EXPECT_FALSE(p.is_late(at(150), kDeadline));
  EXPECT_TRUE(p.is_late(at(151), kDeadline));
}

TEST(StreamWatchdog, ItCountsAnewFromEveryMarkThatIsReached) {
  StreamWatchdog p(4);
  for (int i = 0; i < 3; ++i) p.set(at(i));
  p.reach_oldest(at(90));
  EXPECT_EQ(p.oldest(), 1u);
  EXPECT_FALSE(p.is_late(at(190), kDeadline));
  EXPECT_TRUE(p.is_late(at(191), kDeadline));
  p.reach_oldest(at(191));
  p.reach_oldest(at(192));
  EXPECT_FALSE(p.oldest());
  EXPECT_FALSE(p.is_late(at(100000), kDeadline));
}

TEST(StreamWatchdog, WhenMarksRunOutTheNewestMovesOn) {
  StreamWatchdog p(3);
  EXPECT_EQ(p.set(at(0)), 0u);
  EXPECT_EQ(p.set(at(1)), 1u);
  EXPECT_EQ(p.set(at(2)), 2u);
  EXPECT_EQ(p.set(at(3)), 2u);
  p.reach_oldest(at(4));
  EXPECT_EQ(p.set(at(5)), 0u) << "a free one again";
  EXPECT_EQ(p.oldest(), 1u);
  for (int i = 0; i < 3; ++i) p.reach_oldest(at(6));
  EXPECT_FALSE(p.oldest());
}

}  // namespace
}  // namespace switchyard
