// cli/ranks.h -- the ranks of a run: threads of this process, or this process as one of many.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "switchyard/communicator.h"

namespace switchyard::cli {

class Ranks {
 public:
  // "threads": num_threads of them. "processes", "mpi": connects this process to the others that
  // its launcher started.
  Ranks(const std::string& transport, int num_threads);

  int size() const { return size_; }
  // How many of them share this machine's memory.
  int num_on_machine() const { return num_on_machine_; }
  // The number of `rank`, which lives in this process, among them.
  int local(int rank) const { return comm_ ? local_ : rank; }
  // Whether this process speaks for all: of several processes only rank 0 prints and writes.
  bool speaks() const { return !comm_ || comm_->rank() == 0; }

  // Runs `body` on every rank that lives in this process.
  void run(const std::function<void(Communicator&)>& body) const;
  // Tells the other processes why this one gives up, so that rank 0 can say it.
  void give_up(const std::string& reason) const noexcept;

 private:
  int size_, num_on_machine_;
  int local_ = 0;                       // of this process
  std::shared_ptr<Communicator> comm_;  // of this process; none for threads
};

}  // namespace switchyard::cli
