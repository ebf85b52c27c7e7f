// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/barrier.cuh -- barriers of a warpgroup and of a cluster. PTX ISA, "bar" and
// "barrier.cluster".
#pragma once

#include <cuda/ptx>

namespace switchyard::cuda::ptx {

using ::cuda::ptx::barrier_cluster_arrive;
using ::cuda::ptx::barrier_cluster_wait;
using ::cuda::ptx::get_sreg_cluster_ctarank;

// Until the kThreads threads that share barrier `number` (1 to 15) are here.
template <int kThreads>
__device__ __forceinline__ void bar_sync(int number) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(kThreads) : "memory");
}

// Until every thread of the cluster that has not ended is here: for whole warps.
__device__ __forceinline__ void barrier_cluster_sync_aligned() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

}  // namespace switchyard::cuda::ptx
