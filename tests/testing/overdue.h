// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/overdue.h -- a test that takes long says where its threads are, while they are
// there: at the deadline of a wait whoever was waited for may have gone on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>

namespace switchyard::testing {

// The place of every thread of this process, on stderr; addr2line reads them.
void say_where_all_are();

// Speaks once if it lives for longer than `limit`.
class Overdue {
 public:
  explicit Overdue(std::chrono::seconds limit)
      : watcher_([limit](const std::stop_token& over) {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any wakes;
          wakes.wait_for(lock, over, limit, [] { return false; });
          if (!over.stop_requested()) say_where_all_are();
        }) {}

 private:
  std::jthread watcher_;
};

}  // namespace switchyard::testing
