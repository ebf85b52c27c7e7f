// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/measure.h -- launchers of what the benchmark needs beside operations, and the cuBLAS
// rate.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "device/stopwatch.h"

namespace switchyard::cuda {

// measure.cu
// Reads `bytes` (a multiple of 16) once. `out` one word, so that the reads are not for nothing.
void read_all(uint32_t* out, const void* data, int64_t bytes, int num_sms, cudaStream_t stream);
// Copies `bytes` (a multiple of 16).
void copy_all(void* dst, const void* src, int64_t bytes, int num_sms, cudaStream_t stream);
// out[0] clock cycles of one multiprocessor in out[1] nanoseconds, about 200 microseconds.
void spin_clock(int64_t* out, cudaStream_t stream);

// cublas_rate.cc: TFLOP/s of bf16 n cubed with fp32 sums, the median of `repeat`; a, b and c hold
// n * n elements each.
double cublas_tflops(void* c, const void* a, const void* b, int n, int repeat, Backend& backend,
                     Stopwatch& watch);
// cublas_lt_rate.cc: the same of f8_e4m3, c in bf16; 0 where cuBLASLt or the GPU cannot.
double cublas_lt_f8_tflops(void* c, const void* a, const void* b, int n, int repeat,
                           Backend& backend, Stopwatch& watch);

}  // namespace switchyard::cuda
