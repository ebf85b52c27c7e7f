// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/small_ops.cuh -- one thread per element, or one thread in all. Memory bound.
#pragma once

#include "cuda/launch.h"
#include "cuda/status.cuh"

namespace switchyard::cuda {

inline constexpr int kSmallThreads = 256;
// Longer tensors are walked in strides: enough blocks to fill any GPU.
inline constexpr int64_t kSmallMaxBlocks = 2048;

// counts = {num_rows}, first_row = {0, num_rows}
__global__ __launch_bounds__(32) void single_group_kernel(int32_t* __restrict__ counts,
                                                          int64_t* __restrict__ first_row,
                                                          int64_t num_rows) {
  wait_for_predecessor();
  allow_successor();
  if (threadIdx.x != 0) return;
  counts[0] = static_cast<int32_t>(num_rows);
  first_row[0] = 0;
  first_row[1] = num_rows;
}

// dst = 1 / (1 + exp(-src)), accurate exponential and division
__global__ __launch_bounds__(kSmallThreads) void sigmoid_kernel(float* __restrict__ dst,
                                                                const float* __restrict__ src,
                                                                int64_t count) {
  wait_for_predecessor();
  allow_successor();
  const int64_t stride = int64_t{gridDim.x} * kSmallThreads;
  for (int64_t i = int64_t{blockIdx.x} * kSmallThreads + threadIdx.x; i < count; i += stride)
    dst[i] = 1.0f / (1.0f + expf(-src[i]));
}

// dst = value
__global__ __launch_bounds__(kSmallThreads) void fill_i32_kernel(int32_t* __restrict__ dst,
                                                                 int32_t value, int64_t count) {
  wait_for_predecessor();
  allow_successor();
  const int64_t stride = int64_t{gridDim.x} * kSmallThreads;
  for (int64_t i = int64_t{blockIdx.x} * kSmallThreads + threadIdx.x; i < count; i += stride)
    dst[i] = value;
}

// As many words as the 4 KiB of arguments of a launch have room for, beside the address.
struct WordsOfLaunch {
  static constexpr int kMost = 960;
  int32_t words[kMost];
};

// dst = words
__global__ __launch_bounds__(kSmallThreads) void write_i32_kernel(
    int32_t* __restrict__ dst, const __grid_constant__ WordsOfLaunch src, int count) {
  wait_for_predecessor();
  allow_successor();
  for (int i = threadIdx.x; i < count; i += kSmallThreads) dst[i] = src.words[i];
}

// dst = NaN if status is set, 8 elements of bf16 per thread and step; else one word is read.
__global__ __launch_bounds__(kSmallThreads) void poison_kernel(uint16_t* __restrict__ dst,
                                                               const int32_t* __restrict__ status,
                                                               int64_t count) {
  constexpr uint32_t kTwoNan = 0x7fc07fc0;  // the canonical quiet NaN
  wait_for_predecessor();
  allow_successor();
  if (is_good(status)) return;
  const int64_t stride = int64_t{gridDim.x} * kSmallThreads;
  const int64_t first = int64_t{blockIdx.x} * kSmallThreads + threadIdx.x;
  for (int64_t i = first; i < count / 8; i += stride)
    reinterpret_cast<uint4*>(dst)[i] = {kTwoNan, kTwoNan, kTwoNan, kTwoNan};
  for (int64_t i = count / 8 * 8 + first; i < count; i += stride)
    dst[i] = static_cast<uint16_t>(kTwoNan);
}

}  // namespace switchyard::cuda
