// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/forked_ranks.h -- ranks that are child processes, without a launcher.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "switchyard/communicator.h"
#include "testing/comes.h"
#include "testing/end_process.h"

namespace switchyard::testing {

// A port P such that P + 1, where rank 0 listens, is free now.
inline int free_master_port() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  bind(fd, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port) - 1;
}

// What a child saw, in memory that its parent reads. All zero at first.
struct Seen {
  char message[1000] = {};
  uint64_t bits = 0;  // a hash
  double seconds = 0;
  bool recovered = false;

  void say(const std::exception& e) { std::strncpy(message, e.what(), sizeof message - 1); }
  bool says(const char* part) const { return std::strstr(message, part) != nullptr; }
};

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

// A gather, once, in memory that the ranks share: what a host program that knows its peers would
// provide. All bytes 0 are one that nobody came to.
struct GatherTable {
  std::atomic<int> arrived{0};
  char bytes_of_all[64 * 256] = {};

  GatherCallback of(int rank, int size) {
    return [this, rank, size](void* all, const void* mine, size_t bytes) {
      std::memcpy(bytes_of_all + static_cast<size_t>(rank) * bytes, mine, bytes);
      arrived.fetch_add(1);
      while (arrived.load() < size) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::memcpy(all, bytes_of_all, static_cast<size_t>(size) * bytes);
    };
  }
};

class SharedGather {
 public:
  GatherCallback of(int rank, int size) const { return table_[0].of(rank, size); }

 private:
  SharedArray<GatherTable> table_{1};
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
        end_process(code);
      }
      add(child);
    }
  }
};

}  // namespace switchyard::testing
