// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/numbers.cuh -- bf16 and f32 elements as fp32, and back.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "switchyard/tensor.h"

namespace switchyard::cuda {

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class T>
__device__ __forceinline__ T rounded(float x) {
  if constexpr (sizeof(T) == 4)
    return x;
  else
    return __float2bfloat16_rn(x);
}
// Of a value that T holds exactly: its bits, those of a NaN included.
template <class T>
__device__ __forceinline__ T exact(float x) {
  if constexpr (sizeof(T) == 4)
    return x;
  else
    return __ushort_as_bfloat16(static_cast<unsigned short>(__float_as_uint(x) >> 16));
}

// The bits of two bf16, `low` first in memory.
__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Elements whose type is known at run time: for the few that a kernel reads beside its bulk.
struct Numbers {
  const void* data = nullptr;
  bool is_f32 = false;

  __device__ __forceinline__ float operator[](int64_t i) const {
    return is_f32 ? static_cast<const float*>(data)[i]
                  : to_float(static_cast<const __nv_bfloat16*>(data)[i]);
  }
};
inline Numbers numbers_of(ConstTensor t) {
  return {t.data, t.dtype == DType::F32};
}

}  // namespace switchyard::cuda
