// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "waiting_kernels.h"

#include "cuda/ptx/ld_st_sys.cuh"
#include "device/cuda_check.h"

namespace switchyard::bench {
namespace {

__global__ void work_kernel(int32_t* memory, int loops) {
  int32_t& mine = memory[blockIdx.x * blockDim.x + threadIdx.x];
  for (int i = 0; i < loops; ++i) mine += i;
}

__global__ void tell_kernel(Board board, int meeting) {
  volatile int32_t* mine = board.told + meeting * board.num_ranks + board.rank;
  __threadfence();
  *mine = *mine + 1;
}

__global__ void await_kernel(Board board, int meeting, int64_t limit_ns, Late* late) {
  const int rank = threadIdx.x;
  if (rank >= board.num_ranks) return;
  const volatile int32_t* told = board.told + meeting * board.num_ranks;
  const int32_t call = told[board.rank];
  const uint64_t end = cuda::ptx::get_sreg_globaltimer() + static_cast<uint64_t>(limit_ns);
  while (told[rank] < call)
    if (cuda::ptx::get_sreg_globaltimer() > end) {
      *late = {call, meeting, rank};
      return;
    }
}

}  // namespace

void enqueue_work(int32_t* memory, int loops, cudaStream_t stream) {
  work_kernel<<<kWorkBlocks, kWorkThreads, 0, stream>>>(memory, loops);
  SWITCHYARD_CUDA_CHECK(cudaGetLastError());
}

void enqueue_tell(const Board& board, int meeting, cudaStream_t stream) {
  tell_kernel<<<1, 1, 0, stream>>>(board, meeting);
  SWITCHYARD_CUDA_CHECK(cudaGetLastError());
}

void enqueue_await(const Board& board, int meeting, int64_t limit_ns, Late* late,
                   cudaStream_t stream) {
  await_kernel<<<1, 32, 0, stream>>>(board, meeting, limit_ns, late);
  SWITCHYARD_CUDA_CHECK(cudaGetLastError());
}

}  // namespace switchyard::bench
