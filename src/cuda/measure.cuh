// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/measure.cuh -- kernels of the benchmark.
#pragma once

#include <cstdint>

#include <cuda_fp8.h>

#include "base/random.h"
#include "cuda/launch.h"
#include "cuda/ptx/ld_st_sys.cuh"

namespace switchyard::cuda {

// Four 16-byte loads of a thread are in flight at a time.
__global__ void __launch_bounds__(512)
    read_all_kernel(uint32_t* out, const uint4* data, int64_t count) {
  wait_for_predecessor();
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  uint32_t sum = 0;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = data[i + j * stride];
#pragma unroll
    for (int j = 0; j < 4; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < count; i += stride) sum ^= data[i].x ^ data[i].y ^ data[i].z ^ data[i].w;
  for (int lane = 16; lane > 0; lane /= 2) sum ^= __shfl_xor_sync(0xffffffffu, sum, lane);
  if (threadIdx.x % 32 == 0) atomicXor(out, sum);
}

__global__ void __launch_bounds__(512) copy_kernel(uint4* dst, const uint4* src, int64_t count) {
  wait_for_predecessor();
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(src + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) __stcs(dst + i + j * stride, v[j]);
  }
  for (; i < count; i += stride) dst[i] = src[i];
}

__device__ __forceinline__ int64_t nanoseconds() {
  return static_cast<int64_t>(ptx::get_sreg_globaltimer());
}

// Begins and ends at a tick of the global timer, which may be a microsecond.
__global__ void spin_clock_kernel(int64_t* out) {
  wait_for_predecessor();
  const int64_t entered = nanoseconds();
  int64_t begin = entered, end = entered;
  while (begin == entered) begin = nanoseconds();
  const int64_t first = clock64();
  while (end < begin + 200'000) end = nanoseconds();
  const int64_t last = clock64();
  out[0] = last - first;
  out[1] = end - begin;
}

struct AsBf16 {
  uint16_t* out;
  // Of finite values: as Bf16 has it.
  __device__ void store(int64_t i, float value) const {
    const uint32_t u = __float_as_uint(value);
    out[i] = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};
struct AsF32 {
  float* out;
  __device__ void store(int64_t i, float value) const { out[i] = value; }
};

struct AsF8 {
  uint8_t* out;
  __device__ void store(int64_t i, float value) const {
    out[i] = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
  }
};

// Block y is slice y of `per_slice` elements.
template <class Out>
__global__ void fill_random_kernel(Out out, int64_t per_slice, uint64_t seed, int64_t first_expert,
                                   int number, float range, float middle) {
  wait_for_predecessor();
  const int64_t slice = blockIdx.y;
  const uint64_t stream = random_stream(seed, first_expert < 0 ? -1 : first_expert + slice, number);
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < per_slice; i += stride)
    // No fma: the host rounds the product, too.
    out.store(slice * per_slice + i,
              __fadd_rn(middle, uniform_at(stream, static_cast<uint64_t>(i), range)));
}

}  // namespace switchyard::cuda
