// tests/testing/forked_ranks.h -- ranks that are child processes, without a launcher.
#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "switchyard/communicator.h"

namespace switchyard::testing {

// Memory that the parent and its children share.
template <class T>
class SharedArray {
 public:
  explicit SharedArray(size_t size) : bytes_(size * sizeof(T)) {
    data_ = static_cast<T*>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  ~SharedArray() { munmap(data_, bytes_); }
  SharedArray(const SharedArray&) = delete;
  SharedArray& operator=(const SharedArray&) = delete;
  T& operator[](size_t i) const { return data_[i]; }
  T* data() const { return data_; }

 private:
  size_t bytes_;
  T* data_;
};

// A gather over shared memory, once: what a host program that knows its peers would provide.
class SharedGather {
 public:
  SharedGather() : bytes_(64 * 256), arrived_(1) {}
  GatherCallback of(int rank, int size) const {
    return [this, rank, size](void* all, const void* mine, size_t bytes) {
      std::memcpy(bytes_.data() + static_cast<size_t>(rank) * bytes, mine, bytes);
      arrived_[0].fetch_add(1);
      while (arrived_[0].load() < size) std::this_thread::yield();
      std::memcpy(all, bytes_.data(), static_cast<size_t>(size) * bytes);
    };
  }

 private:
  SharedArray<char> bytes_;
  SharedArray<std::atomic<int>> arrived_;
};

// Child processes 0, 1, ...; the destructor kills what is left.
class Children {
 public:
  Children() = default;
  ~Children() {
    for (const pid_t child : pids_)
      if (child > 0) kill(child, SIGKILL), waitpid(child, nullptr, 0);
  }
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;

  void kill_rank(int rank) { kill(pids_[static_cast<size_t>(rank)], SIGKILL); }
  // Whether the rank exited with 0 within the limit.
  bool finished(int rank, std::chrono::seconds limit = std::chrono::seconds(60)) {
    pid_t& child = pids_[static_cast<size_t>(rank)];
    const auto end = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < end) {
      int status = 0;
      if (waitpid(child, &status, WNOHANG) == child) {
        child = -1;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

 protected:
  void add(pid_t child) { pids_.push_back(child); }

 private:
  std::vector<pid_t> pids_;
};

// A child that returns from its body exits with 0, one that throws with 1.
class ForkedRanks : public Children {
 public:
  ForkedRanks(int num_ranks, const std::function<void(int rank)>& body) {
    for (int r = 0; r < num_ranks; ++r) {
      const pid_t child = fork();
      if (child == 0) {
        int code = 0;
        try {
          body(r);
        } catch (const std::exception& e) {
          std::fprintf(stderr, "rank %d: %s\n", r, e.what());
          code = 1;
        }
        _exit(code);
      }
      add(child);
    }
  }
};

}  // namespace switchyard::testing
