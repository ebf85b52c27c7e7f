// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/enqueue_lock.h -- one thread at a time enqueues a call, where ranks share a device.
#pragma once

#include <chrono>
#include <mutex>

namespace switchyard {

// Held while a call is enqueued, by a layer and again by its dispatcher. Not waited for without
// end: a launch into a queue that is full waits for kernels, and those perhaps for what another
// thread is about to enqueue.
class EnqueueLock {
 public:
  explicit EnqueueLock(bool wanted) : lock_(mutex(), std::defer_lock) {
    if (wanted) (void)lock_.try_lock_for(std::chrono::milliseconds(100));
  }

  bool is_held() const { return lock_.owns_lock(); }

 private:
  static std::recursive_timed_mutex& mutex() {
    static std::recursive_timed_mutex mutex;
    return mutex;
  }

  std::unique_lock<std::recursive_timed_mutex> lock_;
};

}  // namespace switchyard
