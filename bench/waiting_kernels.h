// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// bench/waiting_kernels.h -- kernels that do next to nothing, tell, and wait to be told.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace switchyard::bench {

constexpr int kMeetings = 2;                         // of a call, as dispatch and combine
constexpr int kWorkBlocks = 32, kWorkThreads = 256;  // `memory` has an i32 for each

// Who was not there when a wait gave up; written by the device, read by the host.
struct Late {
  int32_t call = 0;     // from 1; 0: nobody was late
  int32_t meeting = 0;  // of the call
  int32_t missing = 0;  // a rank
};

// Where ranks tell each other: told i32 [kMeetings, num_ranks], how often each did; 0 at first.
struct Board {
  int32_t* told = nullptr;
  int num_ranks = 0;
  int rank = 0;  // this one
};

void enqueue_work(int32_t* memory, int loops, cudaStream_t stream);
void enqueue_tell(const Board& board, int meeting, cudaStream_t stream);
// One warp, until every rank has told as often as this one, or `limit_ns` are over.
void enqueue_await(const Board& board, int meeting, int64_t limit_ns, Late* late,
                   cudaStream_t stream);

}  // namespace switchyard::bench
