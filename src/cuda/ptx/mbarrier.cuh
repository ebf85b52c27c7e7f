// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/mbarrier.cuh -- mbarriers in shared memory. PTX ISA, "mbarrier". What libcu++ has is
// libcu++'s.
#pragma once

#include <cstdint>
#include <cuda/ptx>

namespace switchyard::cuda::ptx {

using ::cuda::ptx::fence_mbarrier_init;
using ::cuda::ptx::mbarrier_arrive;
using ::cuda::ptx::mbarrier_arrive_expect_tx;
using ::cuda::ptx::mbarrier_init;
using ::cuda::ptx::scope_cluster;
using ::cuda::ptx::scope_cta;
using ::cuda::ptx::sem_acquire;
using ::cuda::ptx::sem_release;
using ::cuda::ptx::space_shared;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Arrives at the same barrier of block `rank` of the cluster. Orders no memory beyond this block:
// what it tells is that reads have ended, and a release to the cluster would cost a fence each
// time.
__device__ __forceinline__ void mbarrier_arrive_mapa(uint64_t* barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}
// Until the phase of this parity is complete. libcu++'s one try in a C++ loop is laid out otherwise.
__device__ __forceinline__ void mbarrier_wait_parity(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Stores a word to the same place of block `rank` of the cluster, whose barrier counts the bytes.
__device__ __forceinline__ void st_async_mapa(int rank, int32_t* word, int32_t value,
                                              uint64_t* barrier) {
  asm volatile(
      "{\n"
      ".reg .b32 word, barrier;\n"
      "mapa.shared::cluster.u32 word, %0, %3;\n"
      "mapa.shared::cluster.u32 barrier, %1, %3;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [word], %2, [barrier];\n"
      "}\n" ::"r"(shared_address(word)),
      "r"(shared_address(barrier)), "r"(value), "r"(rank)
      : "memory");
}

}  // namespace switchyard::cuda::ptx
