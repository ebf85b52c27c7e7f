// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "switchyard/backend.h"
#include "switchyard/communicator.h"
#include "testing/failing_threads.h"
#include "testing/forked_ranks.h"

namespace switchyard::cpu {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceForAnyNumberOfThreads) {
  for (const int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int round = 0; round < 200; ++round) {  // jobs follow each other at once
      const int64_t tasks = round % 5 == 0 ? round % 3 : 50;
      std::vector<int> runs(static_cast<size_t>(tasks), 0);
      pool.parallel_for(tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      EXPECT_EQ(std::accumulate(runs.begin(), runs.end(), 0), tasks);
      for (const int n : runs) EXPECT_EQ(n, 1);
    }
  }
}

// The threads that took part in a job of as many tasks, each of which waits until others have the rest.
size_t threads_that_met(ThreadPool& pool) {
  const auto num_threads = static_cast<size_t>(pool.num_threads());
  std::mutex mutex;
  std::condition_variable met;
  std::set<std::thread::id> threads;
  pool.parallel_for(pool.num_threads(), [&](int64_t) {
    std::unique_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
    met.notify_all();
    met.wait_for(lock, std::chrono::seconds(30), [&] { return threads.size() == num_threads; });
  });
  return threads.size();
}

TEST(ThreadPool, WorkersTakePart) {
  ThreadPool pool(2);
  EXPECT_EQ(threads_that_met(pool), 2u);
}

TEST(ThreadPool, AThreadThatCannotBeMadeIsAnErrorAndTheOthersEnd) {
  testing::g_threads_left = 3;
  std::string message;
  try {
    make_cpu_backend(8);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    message = e.what();
  }
  EXPECT_THROW(run_local_ranks(4, [](Communicator&) {}), Error);  // none is left
  testing::g_threads_left = -1;
  EXPECT_NE(message.find("make_cpu_backend: num_threads=8, the system made 4"), std::string::npos)
      << message;
  make_cpu_backend(8);
}

TEST(ThreadPool, InAChildOfForkIsAnErrorAndEnds) {
  auto pool = std::make_unique<ThreadPool>(3);
  // A thread that starts holds locks of the address sanitizer, which a child of fork would wait for.
  EXPECT_EQ(threads_that_met(*pool), 3u);
  testing::SharedArray<testing::Seen> seen(1);
  testing::ForkedRanks child(1, [&](int) {
    try {
      pool->parallel_for(10, [](int64_t) {});
    } catch (const Error& e) {
      seen[0].say(e);
    }
    pool.reset();
  });
  EXPECT_TRUE(child.finished(0, std::chrono::seconds(20)));
  EXPECT_TRUE(seen[0].says("Make what the child needs after the fork")) << seen[0].message;
  int64_t sum = 0;  // the parent's goes on
  pool->parallel_for(1, [&](int64_t i) { sum += i + 1; });
  EXPECT_EQ(sum, 1);
}

TEST(ThreadPool, PoolsOfSeveralThreadsDoNotDisturbEachOther) {
  std::vector<int64_t> sums(4, 0);
  {
    std::vector<std::jthread> owners;
    for (size_t o = 0; o < sums.size(); ++o)
      owners.emplace_back([&sums, o] {
        ThreadPool pool(2);
        for (int round = 0; round < 50; ++round) {
          std::atomic<int64_t> sum = 0;
          pool.parallel_for(20, [&](int64_t i) { sum += i; });
          sums[o] += sum;
        }
      });
  }
  for (const int64_t sum : sums) EXPECT_EQ(sum, 50 * 190);
}

}  // namespace
}  // namespace switchyard::cpu
