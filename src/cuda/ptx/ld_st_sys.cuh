// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/ld_st_sys.cuh -- words that other devices and the host write while we look.
#pragma once

#include <cstdint>
#include <cuda/ptx>

namespace switchyard::cuda::ptx {

// What this thread did and saw before is visible to whoever acquires the word.
__device__ __forceinline__ void st_release_sys(int64_t* word, int64_t value) {
  asm volatile("st.release.sys.global.s64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}
// The word alone, as a whole.
__device__ __forceinline__ void st_relaxed_sys(int64_t* word, int64_t value) {
  asm volatile("st.relaxed.sys.global.s64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}
__device__ __forceinline__ int64_t ld_acquire_sys(const int64_t* word) {
  int64_t value;
  asm volatile("ld.acquire.sys.global.s64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}
__device__ __forceinline__ int64_t ld_relaxed_sys(const int64_t* word) {
  int64_t value;
  asm volatile("ld.relaxed.sys.global.s64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}
__device__ __forceinline__ int32_t ld_relaxed_sys(const int32_t* word) {
  int32_t value;
  asm volatile("ld.relaxed.sys.global.s32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}
using ::cuda::ptx::get_sreg_globaltimer;  // ns, alike on every multiprocessor

}  // namespace switchyard::cuda::ptx
