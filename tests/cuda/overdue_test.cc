// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "testing/overdue.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <future>

namespace switchyard::testing {
namespace {

using std::chrono::seconds;

// In a process of its own, where this test can read what is said.
[[noreturn]] void outlive(seconds limit) {
  std::promise<void> never;
  const auto waits = std::async(std::launch::async, [over = never.get_future()] { over.wait(); });
  {
    const Overdue overdue(limit);
    std::this_thread::sleep_for(seconds(1));
  }
  _exit(0);
}

TEST(Overdue, SaysWhereEveryThreadIs) {
  EXPECT_EXIT(outlive(seconds(0)), ::testing::ExitedWithCode(0), "thread .*\n.*thread ");
}

TEST(Overdue, SaysNothingInTime) {
  EXPECT_EXIT(outlive(seconds(60)), ::testing::ExitedWithCode(0), "^$");
}

}  // namespace
}  // namespace switchyard::testing
