// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/thread_pool.h -- the worker threads of one CPU backend.
//
// Not OpenMP: libgomp's barriers are opaque to the thread sanitizer, and a host program keeps its
// own OpenMP settings to itself. Ranks that are threads each own a pool, so pools never nest.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/home_process.h"
#include "switchyard/backend.h"

namespace switchyard::cpu {

class ThreadPool {
 public:
  // num_threads in all: the caller of parallel_for and num_threads - 1 workers. With a runner none:
  // the host's threads take the tasks. Throws Error(Unsupported) where the system has no such threads.
  explicit ThreadPool(int num_threads, std::shared_ptr<TaskRunner> runner = nullptr)
      : runner_(std::move(runner)) {
    state_->workers.reserve(static_cast<size_t>(std::max(1, num_threads) - 1));
    try {
      for (int i = 1; i < num_threads; ++i)
        state_->workers.emplace_back([state = state_.get()] { work(*state); });
    } catch (const std::system_error& e) {
      const size_t num_made = state_->workers.size() + 1;
      stop();
      throw Error(Errc::Unsupported,
                  cat("make_cpu_backend: num_threads=", num_threads, ", the system made ", num_made,
                      " (", e.what(), "). Use fewer threads, or raise its limit."));
    } catch (const std::bad_alloc&) {
      stop();
      throw;
    }
  }
  // In a child of fork there are no workers to wait for, and what they wait with never ends.
  ~ThreadPool() {
    if (home_.is_here())
      stop();
    else
      (void)state_.release();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const {
    return runner_ ? runner_->num_threads() : static_cast<int>(state_->workers.size()) + 1;
  }

  // f(i) for every i in [0, num_tasks), on any thread in any order; returns when all have run.
  // One caller at a time; f must not throw. Nothing is allocated. Throws Error(Unsupported) in a
  // child of fork.
  template <class F>
  void parallel_for(int64_t num_tasks, F&& f) {
    using Task = std::remove_reference_t<F>;
    run({[](void* context, int64_t i) { (*static_cast<Task*>(context))(i); }, &f, num_tasks});
  }

 private:
  struct Job {
    void (*call)(void* context, int64_t task) = nullptr;
    void* context = nullptr;
    int64_t num_tasks = 0;
  };

  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    Job job;
    uint64_t num_jobs = 0;  // jobs posted so far
    size_t num_busy = 0;    // workers that have not finished the current job
    bool stopping = false;
    std::atomic<int64_t> next_task = 0;
    std::vector<std::thread> workers;
  };

  void run(const Job& job) {
    if (runner_) return runner_->run(job.num_tasks, job.call, job.context);
    State& s = *state_;
    if (s.workers.empty() || job.num_tasks <= 1) {
      for (int64_t i = 0; i < job.num_tasks; ++i) job.call(job.context, i);
      return;
    }
    home_.require("parallel_for", "the backend");
    {
      std::lock_guard lock(s.mutex);
      s.job = job;
      s.next_task.store(0, std::memory_order_relaxed);
      s.num_busy = s.workers.size();
      ++s.num_jobs;
    }
    s.changed.notify_all();
    take_tasks(s, job);
    std::unique_lock lock(s.mutex);
    s.changed.wait(lock, [&] { return s.num_busy == 0; });
  }
  static void take_tasks(State& s, const Job& job) {
    for (int64_t i; (i = s.next_task.fetch_add(1, std::memory_order_relaxed)) < job.num_tasks;)
      job.call(job.context, i);
  }
  static void work(State& s) {
    uint64_t seen = 0;
    std::unique_lock lock(s.mutex);
    while (true) {
      s.changed.wait(lock, [&] { return s.stopping || s.num_jobs != seen; });
      if (s.stopping) return;
      seen = s.num_jobs;
      const Job job = s.job;
      lock.unlock();
      take_tasks(s, job);
      lock.lock();
      if (--s.num_busy == 0) s.changed.notify_all();
    }
  }
  void stop() {
    {
      std::lock_guard lock(state_->mutex);
      state_->stopping = true;
    }
    state_->changed.notify_all();
    for (auto& worker : state_->workers) worker.join();
    state_->workers.clear();
  }

  std::shared_ptr<TaskRunner> runner_;
  std::unique_ptr<State> state_ = std::make_unique<State>();
  const HomeProcess home_;
};

}  // namespace switchyard::cpu
