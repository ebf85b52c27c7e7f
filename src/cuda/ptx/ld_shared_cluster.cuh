// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/ld_shared_cluster.cuh -- shared memory of another block of the cluster. PTX ISA,
// "mapa" and "ld", sm_90 and up.
#pragma once

#include "cuda/ptx/mbarrier.cuh"

namespace switchyard::cuda::ptx {

// What block `rank` of the cluster has where this block has `p`.
__device__ __forceinline__ float ld_shared_cluster(const float* p, int rank) {
  float value;
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %1, %2;\n"
      "ld.shared::cluster.f32 %0, [there];\n"
      "}\n"
      : "=f"(value)
      : "r"(shared_address(p)), "r"(rank)
      : "memory");
  return value;
}

}  // namespace switchyard::cuda::ptx
