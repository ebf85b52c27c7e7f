// src/cpu/thread_pool.h -- the worker threads of one CPU backend.
//
// Not OpenMP: libgomp's barriers are opaque to the thread sanitizer, and a host program keeps its
// own OpenMP settings to itself. Ranks that are threads each own a pool, so pools never nest.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "switchyard/backend.h"

namespace switchyard::cpu {

class ThreadPool {
 public:
  // num_threads in all: the caller of parallel_for and num_threads - 1 workers.
  // With a runner none: the host's threads take the tasks.
  explicit ThreadPool(int num_threads, std::shared_ptr<TaskRunner> runner = nullptr)
      : runner_(std::move(runner)) {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~ThreadPool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int num_threads() const {
    return runner_ ? runner_->num_threads() : static_cast<int>(workers_.size()) + 1;
  }

  // f(i) for every i in [0, num_tasks), on any thread in any order; returns when all have run.
  // One caller at a time; f must not throw. Nothing is allocated.
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

  void run(const Job& job) {
    if (runner_) return runner_->run(job.num_tasks, job.call, job.context);
    if (workers_.empty() || job.num_tasks <= 1) {
      for (int64_t i = 0; i < job.num_tasks; ++i) job.call(job.context, i);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      job_ = job;
      next_task_.store(0, std::memory_order_relaxed);
      num_busy_ = workers_.size();
      ++num_jobs_;
    }
    changed_.notify_all();
    take_tasks(job);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_busy_ == 0; });
  }
  void take_tasks(const Job& job) {
    for (int64_t i; (i = next_task_.fetch_add(1, std::memory_order_relaxed)) < job.num_tasks;)
      job.call(job.context, i);
  }
  void work() {
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || num_jobs_ != seen; });
      if (stopping_) return;
      seen = num_jobs_;
      const Job job = job_;
      lock.unlock();
      take_tasks(job);
      lock.lock();
      if (--num_busy_ == 0) changed_.notify_all();
    }
  }

  std::shared_ptr<TaskRunner> runner_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Job job_;
  uint64_t num_jobs_ = 0;  // jobs posted so far
  size_t num_busy_ = 0;    // workers that have not finished the current job
  bool stopping_ = false;
  std::atomic<int64_t> next_task_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace switchyard::cpu
