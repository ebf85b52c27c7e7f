// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/cp_async_bulk.cuh -- the copy engine. PTX ISA, "cp.async.bulk.tensor". What libcu++
// has is libcu++'s: it has no loads with a cache hint.
#pragma once

#include <cuda.h>

#include <cuda/ptx>

#include "cuda/ptx/mbarrier.cuh"

namespace switchyard::cuda::ptx {

using ::cuda::ptx::cp_async_bulk_commit_group;
using ::cuda::ptx::cp_async_bulk_tensor;  // the store
using ::cuda::ptx::cp_async_bulk_wait_group;
using ::cuda::ptx::cp_async_bulk_wait_group_read;
using ::cuda::ptx::fence_proxy_async;
using ::cuda::ptx::n32_t;
using ::cuda::ptx::space_global;

// How long L2 should keep what a copy brings. Values: CUTLASS, cute/arch/copy_sm90_tma.hpp, which
// names what createpolicy returns.
enum class L2CacheHint : uint64_t {
  EvictNormal = 0x1000000000000000,
  EvictFirst = 0x12F0000000000000,  // read once
  EvictLast = 0x14F0000000000000,   // read again soon
};

__device__ __forceinline__ void prefetch_tensormap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of `map` at the coordinates, innermost first, to shared memory; `barrier` counts its bytes.
__device__ __forceinline__ void cp_async_bulk_tensor(void* dst, const CUtensorMap* map,
                                                     const int32_t (&c)[2], uint64_t* barrier,
                                                     L2CacheHint hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c[0]), "r"(c[1]), "l"(static_cast<uint64_t>(hint))
      : "memory");
}
__device__ __forceinline__ void cp_async_bulk_tensor(void* dst, const CUtensorMap* map,
                                                     const int32_t (&c)[3], uint64_t* barrier,
                                                     L2CacheHint hint) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c[0]), "r"(c[1]), "r"(c[2]),
      "l"(static_cast<uint64_t>(hint))
      : "memory");
}
__device__ __forceinline__ void cp_async_bulk_tensor(void* dst, const CUtensorMap* map,
                                                     const int32_t (&c)[5], uint64_t* barrier,
                                                     L2CacheHint hint) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]), "r"(c[4]),
      "l"(static_cast<uint64_t>(hint))
      : "memory");
}
// The same box to the same place in every block of the cluster that has its bit in `blocks`; each
// block's own barrier counts the bytes.
__device__ __forceinline__ void cp_async_bulk_tensor_multicast(void* dst, const CUtensorMap* map,
                                                               const int32_t (&c)[2],
                                                               uint64_t* barrier, uint16_t blocks,
                                                               L2CacheHint hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(
          shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c[0]), "r"(c[1]), "h"(blocks),
      "l"(static_cast<uint64_t>(hint))
      : "memory");
}

}  // namespace switchyard::cuda::ptx
