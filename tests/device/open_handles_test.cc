// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/device/open_handles_test.cc -- memory of other processes is opened once and closed once.
#include "device/process_memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace switchyard {
namespace {

// Counts what a driver would do; refuses to open what is open.
struct Driver {
  std::atomic<int> opened{0}, closed{0}, open_now{0};
  int memory = 0;

  std::shared_ptr<void> open(OpenHandles& handles, int device, int64_t handle) {
    return handles.get(
        {device, {handle}},
        [this]() -> void* {
          if (open_now.fetch_add(1) != 0) throw std::runtime_error("open twice");
          ++opened;
          return &memory;
        },
        [this](void* p) {
          EXPECT_EQ(p, &memory);
          --open_now;
          ++closed;
        });
  }
};

TEST(OpenHandles, OpenOnceAndCloseWithTheLastUser) {
  OpenHandles handles;
  Driver driver;
  auto first = driver.open(handles, 0, 7);
  auto second = driver.open(handles, 0, 7);
  EXPECT_EQ(first.get(), second.get());
  first.reset();
  EXPECT_EQ(driver.closed, 0);
  second.reset();
  EXPECT_EQ(driver.closed, 1);
  driver.open(handles, 0, 7);
  EXPECT_EQ(driver.opened, 2);
  EXPECT_EQ(driver.closed, 2);
}

TEST(OpenHandles, OtherDevicesAndHandlesAreTheirOwn) {
  OpenHandles handles;
  Driver a, b, c;
  const auto x = a.open(handles, 0, 7), y = b.open(handles, 1, 7), z = c.open(handles, 0, 8);
  EXPECT_EQ(a.opened + b.opened + c.opened, 3);
}

TEST(OpenHandles, WhatCannotBeOpenedIsNotRemembered) {
  OpenHandles handles;
  const OpenHandles::Key key{0, {7}};
  const auto refuse = []() -> void* { throw std::runtime_error("no"); };
  EXPECT_THROW(handles.get(key, refuse, [](void*) {}), std::runtime_error);
  Driver driver;
  EXPECT_NE(driver.open(handles, 0, 7), nullptr);
}

TEST(OpenHandles, UsersMayOutliveTheRegistry) {
  Driver driver;
  std::shared_ptr<void> user;
  {
    OpenHandles handles;
    user = driver.open(handles, 0, 7);
  }
  user.reset();
  EXPECT_EQ(driver.closed, 1);
}

TEST(OpenHandles, ThreadsNeverFindItOpenTwice) {
  OpenHandles handles;
  Driver driver;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 1000; ++i) driver.open(handles, 0, 7);
      });
  }
  EXPECT_EQ(driver.open_now, 0);
  EXPECT_EQ(driver.opened, driver.closed);
}

}  // namespace
}  // namespace switchyard
