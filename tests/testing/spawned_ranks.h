// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/spawned_ranks.h -- ranks that are new processes of this test program. CUDA does not
// survive a fork, so a child runs the program anew, and in it one test that finds its part here.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "switchyard/backend.h"
#include "testing/forked_ranks.h"

extern char** environ;

namespace switchyard::testing {

// What a child is told, in its environment.
inline constexpr const char* kSpawnBody = "SWITCHYARD_TEST_BODY";
inline constexpr const char* kSpawnMemory = "SWITCHYARD_TEST_MEMORY";

inline constexpr auto kSpawnLimit = std::chrono::seconds(200);  // then a child is killed

// What every test shares with its children; a test's own board adds to it.
struct SpawnedBoard {
  int num_devices = 1, num_processes = 0;
  std::atomic<int> num_started{0};
};

// A T that parent and children share: the child finds it by the number of its file.
template <class T>
class SpawnedMemory {
 public:
  SpawnedMemory() : fd_(memfd_create("switchyard-test", 0)) {
    if (ftruncate(fd_, sizeof(T)) == 0) map(fd_);
    new (data_) T;
  }
  // In a child.
  explicit SpawnedMemory(const char* number) : fd_(std::atoi(number)) { map(fd_); }
  ~SpawnedMemory() {
    munmap(data_, sizeof(T));
    close(fd_);
  }
  SpawnedMemory(const SpawnedMemory&) = delete;
  SpawnedMemory& operator=(const SpawnedMemory&) = delete;
  T* operator->() const { return data_; }
  T& operator*() const { return *data_; }
  int fd() const { return fd_; }

 private:
  void map(int fd) {
    data_ = static_cast<T*>(mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  }
  int fd_;
  T* data_ = nullptr;
};

// In a child: starts CUDA on these GPUs, the last of which stays current. A driver starts one
// process after the other, and holds up those that are there for longer than a deadline: so nobody
// begins before all have come.
inline void start_cuda_with_the_others(SpawnedBoard& board, const std::vector<int>& devices) {
  for (const int device : devices) make_cuda_backend({.device = device})->load_kernels();
  ++board.num_started;
  comes([&] { return board.num_started >= board.num_processes; }, kSpawnLimit);
}

// Processes that run `test` of this program alone, as ranks of one communicator unless `variables`
// of a process say otherwise.
class SpawnedRanks : public Children {
 public:
  using Variables = std::vector<std::string>;  // NAME=value

  template <class Board>
  SpawnedRanks(int num_processes, const std::string& test, const SpawnedMemory<Board>& board,
               const std::string& body,
               const std::function<Variables(int process)>& variables = {}) {
    board->num_processes = num_processes;
    for (int p = 0; p < num_processes; ++p) {
      Variables all = variables ? variables(p) : Variables{};
      // Its test is in no shard. One rank shares no queue, and CUDA starts slower with many
      // (environment.cc).
      all.insert(all.end(),
                 {"GTEST_TOTAL_SHARDS=1", "GTEST_SHARD_INDEX=0", "CUDA_DEVICE_MAX_CONNECTIONS=8",
                  "CUDA_DEVICE_MAX_COPY_CONNECTIONS=8"});
      for (const std::string& standard :
           {"RANK=" + std::to_string(p), "WORLD_SIZE=" + std::to_string(num_processes),
            std::string(kSpawnBody) + "=" + body,
            std::string(kSpawnMemory) + "=" + std::to_string(board.fd())})
        if (!is_among(all, standard)) all.push_back(standard);
      add(start(test, all));
    }
  }

  // A process that sees one of two GPUs alone, of those that this one may see.
  static Variables with_its_own_gpu(int process) {
    const char* given = std::getenv("CUDA_VISIBLE_DEVICES");
    std::string visible = given != nullptr ? given : "0,1";
    for (int p = 0; p < process; ++p) visible.erase(0, visible.find(',') + 1);
    return {"CUDA_VISIBLE_DEVICES=" + visible.substr(0, visible.find(','))};
  }

 private:
  // Everything is made before the fork; the child only becomes another program.
  static pid_t start(const std::string& test, Variables variables) {
    std::string filter = "--gtest_filter=" + test, program = "/proc/self/exe";
    for (char** variable = environ; *variable != nullptr; ++variable)
      if (!is_among(variables, *variable)) variables.emplace_back(*variable);
    std::vector<char*> arguments = {program.data(), filter.data(), nullptr}, environment;
    for (auto& variable : variables) environment.push_back(variable.data());
    environment.push_back(nullptr);
    const pid_t child = fork();
    if (child != 0) return child;
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);  // what a child has to say stands in the shared memory
    execve(program.data(), arguments.data(), environment.data());
    _exit(127);
  }
  static bool is_among(const Variables& variables, const std::string& other) {
    const auto name = other.substr(0, other.find('=') + 1);
    for (const auto& variable : variables)
      if (variable.starts_with(name)) return true;
    return false;
  }
};

}  // namespace switchyard::testing
