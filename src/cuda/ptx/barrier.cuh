// src/cuda/ptx/barrier.cuh -- mbarriers in shared memory, and the copy engine that completes on
// them. PTX ISA, "mbarrier" and "cp.async.bulk.tensor".
#pragma once

#include <cuda.h>

#include <cstdint>

namespace switchyard::cuda::ptx {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
// Arrives at the same barrier of block `rank` of the cluster. Orders no memory beyond this block:
// what it tells is that reads have ended, and a release to the cluster would cost a fence each
// time.
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}
// Arrives, and makes the phase wait for `bytes` of copies as well.
__device__ __forceinline__ void barrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
// Until the phase of this parity is complete.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
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
__device__ __forceinline__ void store_to(int rank, int32_t* word, int32_t value,
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

// How long L2 should keep what a copy brings. Values: CUTLASS, cute/arch/copy_sm90_tma.hpp, which
// names what createpolicy returns.
enum class L2Keep : uint64_t {
  Normal = 0x1000000000000000,
  First = 0x12F0000000000000,  // evict first: read once
  Last = 0x14F0000000000000,   // evict last: read again soon
};

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of `map` at the coordinates, innermost first, to shared memory.
__device__ __forceinline__ void load_box(void* dst, const CUtensorMap* map, uint64_t* barrier,
                                         L2Keep keep, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "l"(static_cast<uint64_t>(keep))
      : "memory");
}
__device__ __forceinline__ void load_box(void* dst, const CUtensorMap* map, uint64_t* barrier,
                                         L2Keep keep, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2),
      "l"(static_cast<uint64_t>(keep))
      : "memory");
}
__device__ __forceinline__ void load_box(void* dst, const CUtensorMap* map, uint64_t* barrier,
                                         L2Keep keep, int c0, int c1, int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4),
      "l"(static_cast<uint64_t>(keep))
      : "memory");
}

// The same box to the same place in every block of the cluster that has its bit in `blocks`; each
// block's own barrier counts the bytes.
__device__ __forceinline__ void load_box_to(uint16_t blocks, void* dst, const CUtensorMap* map,
                                            uint64_t* barrier, L2Keep keep, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(
          shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "h"(blocks),
      "l"(static_cast<uint64_t>(keep))
      : "memory");
}
__device__ __forceinline__ void load_box_to(uint16_t blocks, void* dst, const CUtensorMap* map,
                                            uint64_t* barrier, L2Keep keep, int c0, int c1,
                                            int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(
          shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "h"(blocks),
      "l"(static_cast<uint64_t>(keep))
      : "memory");
}
__device__ __forceinline__ void load_box_to(uint16_t blocks, void* dst, const CUtensorMap* map,
                                            uint64_t* barrier, L2Keep keep, int c0, int c1, int c2,
                                            int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8, %9;" ::"r"(
          shared_address(dst)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4),
      "h"(blocks), "l"(static_cast<uint64_t>(keep))
      : "memory");
}

// A box from shared memory to `map` at the coordinates; what lies outside the map is not written.
// Counted by the thread's next store_commit.
__device__ __forceinline__ void store_box(const CUtensorMap* map, const void* src, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(shared_address(src)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ __forceinline__ void store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most kPending groups of this thread have still to read shared memory.
template <int kPending>
__device__ __forceinline__ void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// Until all groups of this thread are written to memory.
__device__ __forceinline__ void store_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// What this thread wrote to shared memory is seen by copies that start after the next barrier.
__device__ __forceinline__ void fence_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Until the 128 threads that share barrier `number` (1 to 15) are here.
__device__ __forceinline__ void group_sync(int number) {
  asm volatile("bar.sync %0, 128;" ::"r"(number) : "memory");
}

// This block's rank in its cluster.
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Until every thread of the cluster that has not ended is here.
__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// The same for a thread that goes its own way in its warp.
__device__ __forceinline__ void cluster_sync_alone() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}

// Gives registers back, or takes them: a warpgroup's new budget per thread.
template <int kRegisters>
__device__ __forceinline__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace switchyard::cuda::ptx
