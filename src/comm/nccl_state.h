// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/nccl_state.h -- one communicator of NCCL and the thread that watches it. Shared by both,
// so that a thread that NCCL does not let go is left behind, and no rank hangs.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/backend.h"
#include "comm/nccl_library.h"
#include "comm/stream_watchdog.h"
#include "switchyard/communicator.h"

namespace switchyard {

class NcclState {
 public:
  NcclState(std::shared_ptr<Backend> backend, std::chrono::milliseconds deadline);
  ~NcclState();
  NcclState(const NcclState&) = delete;
  NcclState& operator=(const NcclState&) = delete;

  // ---- of the rank's own thread
  // Collective: until every rank is connected, or the deadline.
  void connect(const ncclUniqueId& id, int num_ranks, int rank);
  // Other ranks live in this process: it ends with more care.
  void note_siblings();
  // Runs `enqueue`, which gets the communicator and gives back NCCL's answer; returns once NCCL has
  // taken the work. Throws Error(Transport) with the reason once the communicator is over.
  template <class F>
  void call(const char* name, F enqueue) {
    {
      const std::lock_guard lock(mutex_);
      require_open_locked();
      take_answer_locked(name, enqueue(comm_));
    }
    await(name);
  }
  static bool is_capturing(cudaStream_t stream);
  // What is on the stream is expected to end: not that of a graph that is being captured.
  void set_mark(cudaStream_t stream);
  // Until everything that is expected has ended.
  void drain();
  void require_open();
  bool is_open();
  // The thread that watches ends the communicator and returns. False: it did not within a while.
  bool close();

  // ---- of any thread
  const int32_t* ended() const { return ended_.get(); }
  // The host's communicator is over, or a rank of it left. Only notes it.
  void note_over();
  // No call works any more, and the thread that watches aborts the communicator. The first reason
  // stays.
  void end(const std::string& why);
  // What the thread that watches does, until `close`. It alone ends NCCL's communicator, since that
  // may take long.
  void watch();

 private:
  bool is_over();
  std::unique_lock<std::mutex> lock_soon();
  std::chrono::milliseconds next_look();
  void look();
  void abort();
  void finish();
  void let_service_threads_end() const;
  // With mutex_ held.
  std::string fault_locked();
  ncclResult_t answer_locked() const;
  void require_open_locked() const;
  void take_answer_locked(const char* name, ncclResult_t answer) const;
  void await(const char* name);

  const std::shared_ptr<Backend> backend_;
  const std::shared_ptr<int32_t> ended_;
  const std::chrono::milliseconds deadline_;

  std::mutex mutex_;           // of all that follows, and of every call of NCCL but its abort
  ncclComm_t comm_ = nullptr;  // null before it is connected, and once it was ended
  std::string why_;            // it is over
  bool has_siblings_ = false;
  std::vector<cudaEvent_t> marks_;
  StreamWatchdog watchdog_;

  std::mutex wake_mutex_;  // of these; nothing is called while it is held
  std::condition_variable wake_;
  bool over_ = false, closing_ = false, closed_ = false;
};

}  // namespace switchyard
