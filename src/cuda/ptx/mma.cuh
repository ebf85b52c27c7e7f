// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/mma.cuh -- matrices from shared memory to the registers of a warp, and their product.
// PTX ISA, "ldmatrix" and "mma", sm_80 and up.
#pragma once

#include <cstdint>

#include "cuda/ptx/mbarrier.cuh"

namespace switchyard::cuda::ptx {

// Four 8 x 8 matrices of bf16: lane l says where row l % 8 of matrix l / 8 begins, 16 bytes, and
// gets elements [l / 4][2 (l % 4)] and the next of each.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&m)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

// Two of them: lanes 0 to 15 say where their rows begin.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&m)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(m[0]), "=r"(m[1])
               : "r"(shared_address(row))
               : "memory");
}

// d += A [16, 16] B [8, 16]^T, bf16 with fp32 sums. a: the quarters of A, the lower rows before the
// later columns. A lane holds, of row l / 4 (+ 8), columns 2 (l % 4) and the next in d[0], d[1]
// (+ 8: d[2], d[3]). The same bits as wgmma over the same 16 (tests/cuda/grouped_gemm_test.cc).
__device__ __forceinline__ void mma_m16n8k16(float* d, const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace switchyard::cuda::ptx
