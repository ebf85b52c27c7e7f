// tests/device/kept_memory_test.cc -- memory that others still use is freed later, by nobody who
// waits.
#include "device/kept_memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace switchyard {
namespace {

TEST(KeptMemory, IsFreedOnceNobodyUsesIt) {
  bool used = true, other_used = true;
  const auto memory = std::make_shared<int>(1), other = std::make_shared<int>(2);
  keep_while(memory, [&] { return used; });
  keep_while(other, [&] { return other_used; });
  free_what_is_returned();
  EXPECT_EQ(memory.use_count() + other.use_count(), 4);
  used = false;
  EXPECT_EQ(memory.use_count(), 2) << "before somebody asks";
  free_what_is_returned();
  EXPECT_EQ(memory.use_count(), 1);
  EXPECT_EQ(other.use_count(), 2);
  other_used = false;
  free_what_is_returned();
  EXPECT_EQ(other.use_count(), 1);
}

TEST(KeptMemory, FreeingMayKeepMore) {
  const auto inner = std::make_shared<int>(1);
  keep_while({nullptr, [inner](void*) { keep_while(inner, [] { return false; }); }},
             [] { return false; });
  free_what_is_returned();
  free_what_is_returned();
  EXPECT_EQ(inner.use_count(), 1);
}

TEST(KeptMemory, ServesThreads) {
  std::atomic<int> freed{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 200; ++i) {
          keep_while({nullptr, [&](void*) { ++freed; }}, [] { return false; });
          free_what_is_returned();
        }
      });
  }
  EXPECT_EQ(freed, 800);
}

}  // namespace
}  // namespace switchyard
