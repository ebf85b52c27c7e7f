// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "base/enqueue_lock.h"

#include <gtest/gtest.h>

#include <thread>

namespace switchyard {
namespace {

bool another_thread_gets_it() {
  bool held = false;
  std::thread([&] { held = EnqueueLock(true).is_held(); }).join();
  return held;
}

TEST(EnqueueLock, IsOneThreadsAtATimeAndIsNotWaitedForWithoutEnd) {
  {
    const EnqueueLock mine(true);
    EXPECT_TRUE(mine.is_held());
    EXPECT_FALSE(another_thread_gets_it());
  }
  EXPECT_TRUE(another_thread_gets_it());
}

TEST(EnqueueLock, IsTakenAgainByTheThreadThatHasIt) {
  const EnqueueLock of_layer(true);
  {
    const EnqueueLock of_dispatcher(true);
    EXPECT_TRUE(of_dispatcher.is_held());
  }
  EXPECT_FALSE(another_thread_gets_it()) << "the layer still has it";
}

TEST(EnqueueLock, IsNotTakenWhereItIsNotWanted) {
  const EnqueueLock none(false);
  EXPECT_FALSE(none.is_held());
  EXPECT_TRUE(another_thread_gets_it());
}

}  // namespace
}  // namespace switchyard
