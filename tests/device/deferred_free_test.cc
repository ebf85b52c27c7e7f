// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/device/deferred_free_test.cc -- memory that others still use is freed later, and no
// thread waits.
#include "device/process_memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace switchyard {
namespace {

TEST(DeferredFree, IsFreedOnceItIsUnused) {
  bool used = true, other_used = true;
  const auto memory = std::make_shared<int>(1), other = std::make_shared<int>(2);
  defer_free(memory, [&] { return used; });
  defer_free(other, [&] { return other_used; });
  free_deferred();
  EXPECT_EQ(memory.use_count() + other.use_count(), 4);
  used = false;
  EXPECT_EQ(memory.use_count(), 2) << "before the next look";
  free_deferred();
  EXPECT_EQ(memory.use_count(), 1);
  EXPECT_EQ(other.use_count(), 2);
  other_used = false;
  free_deferred();
  EXPECT_EQ(other.use_count(), 1);
}

TEST(DeferredFree, FreeingMayKeepMore) {
  const auto inner = std::make_shared<int>(1);
  defer_free({nullptr, [inner](void*) { defer_free(inner, [] { return false; }); }},
             [] { return false; });
  free_deferred();
  free_deferred();
  EXPECT_EQ(inner.use_count(), 1);
}

TEST(DeferredFree, ServesThreads) {
  std::atomic<int> freed{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 200; ++i) {
          defer_free({nullptr, [&](void*) { ++freed; }}, [] { return false; });
          free_deferred();
        }
      });
  }
  EXPECT_EQ(freed, 800);
}

}  // namespace
}  // namespace switchyard
