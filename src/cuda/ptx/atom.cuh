// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/atom.cuh -- a counter in memory that many draw from. PTX ISA, "atom".
#pragma once

#include <cstdint>

namespace switchyard::cuda::ptx {

// If `wanted`, value = *counter, which counts on, and after `last` from 0. Nothing here reads the
// value, so the thread goes on until it is used: a C++ atomic in a branch would be waited for at
// the branch's end.
__device__ __forceinline__ void atom_inc(bool wanted, int32_t& value, int32_t* counter,
                                         int32_t last) {
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.s32 wanted, %2, 0;\n"
      "@wanted atom.relaxed.gpu.global.inc.u32 %0, [%1], %3;\n"
      "}\n"
      : "+r"(value)
      : "l"(counter), "r"(static_cast<int>(wanted)), "r"(last)
      : "memory");
}

}  // namespace switchyard::cuda::ptx
