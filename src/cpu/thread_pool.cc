// src/cpu/thread_pool.cc
#include "cpu/thread_pool.h"

namespace switchyard::cpu {

ThreadPool::ThreadPool(int num_threads) {
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::take_tasks(const Job& job) {
  for (int64_t i; (i = next_task_.fetch_add(1, std::memory_order_relaxed)) < job.num_tasks;)
    job.call(job.context, i);
}

void ThreadPool::run(const Job& job) {
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

void ThreadPool::work() {
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

}  // namespace switchyard::cpu
