// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/ranks.h -- the ranks of a run: threads of this process, or this process as one of many; and
// how they share the rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "device.h"
#include "switchyard/communicator.h"

namespace switchyard::cli {

// The option --transport. Its default is what started this process.
CLI::Option* add_transport(CLI::App& command, std::string& transport);
// "mpi" or "processes" where mpirun, torchrun or the like started this process as one of several;
// otherwise empty.
std::string launched_by();

class Ranks {
 public:
  // "threads": num_threads of them. "processes", "mpi": connects this process to the others that
  // its launcher started. "auto": as launched_by() says, else threads.
  Ranks(const std::string& transport, int num_threads);

  int size() const { return size_; }
  // "threads", "processes" or "mpi".
  const std::string& transport() const { return transport_; }
  bool are_threads() const { return comm_ == nullptr; }
  // How many of them share this machine's memory.
  int num_on_machine() const { return num_on_machine_; }
  // The number of `rank`, which lives in this process, among them.
  int local(int rank) const { return comm_ ? local_ : rank; }
  // Whether this process speaks for all: of several processes only rank 0 prints and writes.
  bool speaks() const { return are_threads() || comm_->rank() == 0; }

  // Runs `body` on every rank that lives in this process.
  void run(const std::function<void(Communicator&)>& body) const;
  // The exit code that `command` gives. When it throws, the other processes get the reason, so that
  // rank 0 can say it; only the process that speaks throws on.
  int exit_code_of(const std::function<int()>& command) const;

 private:
  std::string transport_;
  int size_, num_on_machine_;
  int local_ = 0;                       // of this process
  std::shared_ptr<Communicator> comm_;  // of this process; none for threads
};

// Which rows of all a rank has. Consecutive ranks of a group have the same ones; the first groups
// share all rows evenly, further groups have none.
class Shares {
 public:
  Shares(int64_t num_rows, int num_groups, int group_size = 1)
      : num_rows_(num_rows), num_groups_(num_groups), group_size_(group_size) {}

  bool is_first_of_group(int rank) const { return rank % group_size_ == 0; }
  int64_t begin(int rank) const {
    return num_rows_ * std::min(rank / group_size_, num_groups_) / num_groups_;
  }
  int64_t size(int rank) const { return begin(rank + group_size_) - begin(rank); }
  int64_t largest() const { return (num_rows_ + num_groups_ - 1) / num_groups_; }

  // Collective. All rows, of every rank's `own`, which has as many as the largest share.
  Rows gather(Communicator& comm, const Rows& own) const;

 private:
  int64_t num_rows_;
  int num_groups_, group_size_;
};

}  // namespace switchyard::cli
