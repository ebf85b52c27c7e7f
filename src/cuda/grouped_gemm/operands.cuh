// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/operands.cuh -- what src and weights are made of, and how a stage of them is
// multiplied. Another kind is another struct.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "strategy/gemm_configs.h"

namespace switchyard::cuda {

// From 64 rows of a stage to the next, in a descriptor.
constexpr uint64_t kPartStep = 64 * kStageRowBytes / 16;

struct Bf16Operands {
  static constexpr OperandKind kKind = OperandKind::Bf16;
  static constexpr int kInner = kStageRowBytes / element_bytes(kKind);  // of a stage

  // sums[h] (+)= 64 weight rows x kN rows over the inner dimension of a stage, for each h: the tiles
  // of which the descriptors name the first. One group of products that nobody waits for here.
  template <int kN, int kParts, int kSums>
  static __device__ __forceinline__ void multiply(float (&sums)[kParts][kSums], uint64_t weights,
                                                  uint64_t rows, bool accumulate) {
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kInner / 16; ++i)  // 16 elements are 32 bytes: 2 in a descriptor
#pragma unroll
      for (int h = 0; h < kParts; ++h)
        ptx::wgmma_mma_async_k16<kN>(sums[h], weights + h * kPartStep + 2 * i, rows + 2 * i,
                                     accumulate || i > 0);
    ptx::wgmma_commit_group();
  }
};

// A stage is what shares a scale of a row: 128 elements. The tensor cores add few bits of fp8
// products exactly (decision 65), so no more than that is added by them.
struct F8Operands {
  static constexpr OperandKind kKind = OperandKind::F8E4m3;
  static constexpr int kInner = kStageRowBytes / element_bytes(kKind);

  // products = 64 weight rows x kN rows over a stage, or 64 rows x kN weight rows.
  template <int kN, int kSums>
  static __device__ __forceinline__ void multiply(float (&products)[kSums], uint64_t weights,
                                                  uint64_t rows) {
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kInner / 32; ++i)  // 32 elements are 32 bytes
      ptx::wgmma_mma_async_k32<kN>(products, weights + 2 * i, rows + 2 * i, i > 0);
    ptx::wgmma_commit_group();
  }
};

template <OperandKind kKind>
struct OperandsOf;
template <>
struct OperandsOf<OperandKind::F8E4m3> {
  using type = F8Operands;
};
template <>
struct OperandsOf<OperandKind::Bf16> {
  using type = Bf16Operands;
};

}  // namespace switchyard::cuda
