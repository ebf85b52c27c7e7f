// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/stmatrix.cuh -- matrices from registers to shared memory. PTX ISA, "stmatrix".
#pragma once

#include <cstdint>

#include "cuda/ptx/mbarrier.cuh"

namespace switchyard::cuda::ptx {

// Four 8 x 8 matrices of bf16, each with its elements [lane / 4][2 (lane % 4)] and the next in a
// register of every lane: lane l says where row l % 8 of matrix l / 8 goes, 16 bytes.
__device__ __forceinline__ void stmatrix_x4(void* row, uint32_t m0, uint32_t m1, uint32_t m2,
                                            uint32_t m3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
      "r"(m0), "r"(m1), "r"(m2), "r"(m3)
      : "memory");
}
// Four 8 x 8 matrices of bf16, each with its elements [lane / 4][2 (lane % 4)] and the next in a
// register of every lane, stored transposed: lane l says where row l % 8 of the transposed matrix
// l / 8 goes, 16 bytes.
__device__ __forceinline__ void stmatrix_x4_trans(void* row, uint32_t m0, uint32_t m1, uint32_t m2,
                                                  uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   shared_address(row)),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}

}  // namespace switchyard::cuda::ptx
