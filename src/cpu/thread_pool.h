// src/cpu/thread_pool.h -- the worker threads of one CPU backend.
//
// Not OpenMP: libgomp's barriers are opaque to the thread sanitizer, and a host program keeps its
// own OpenMP settings to itself. Ranks that are threads each own a pool, so pools never nest.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace switchyard::cpu {

class ThreadPool {
 public:
  // num_threads in all: the caller of parallel_for and num_threads - 1 workers.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

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

  void run(const Job& job);
  void take_tasks(const Job& job);
  void work();

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
