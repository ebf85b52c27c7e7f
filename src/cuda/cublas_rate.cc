// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/cublas_rate.cc -- the rate of cuBLAS, which bounds what a GEMM can be expected to reach.
#include <algorithm>

#include "cuda/cublas_library.h"
#include "cuda/measure.h"
#include "device/cuda_check.h"

namespace switchyard::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;

}  // namespace

double cublas_tflops(void* c, const void* a, const void* b, int n, int repeat, Backend& backend,
                     Stopwatch& watch) {
  // Lent: cuBLAS would allocate its own inside the capture.
  const auto workspace = allocate(backend, kWorkspaceBytes);
  const CublasLibrary& cublas = cublas_library();
  const auto handle = make_cublas_handle();
  SWITCHYARD_CUBLAS_CHECK(cublas.set_stream(handle.get(), watch.stream()));
  SWITCHYARD_CUBLAS_CHECK(cublas.set_workspace(handle.get(), workspace.get(), kWorkspaceBytes));
  const float one = 1, zero = 0;
  const auto gemm = [&](CUstream_st*) {
    SWITCHYARD_CUBLAS_CHECK(cublas.gemm(handle.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a,
                                        CUDA_R_16BF, n, b, CUDA_R_16BF, n, &zero, c, CUDA_R_16BF, n,
                                        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  };
  gemm(nullptr);  // loads its kernel before anything is captured
  auto us = watch.replay(gemm, repeat, Cache::Warm);
  std::sort(us.begin(), us.end());
  const double side = n;
  return 2 * side * side * side / us[us.size() / 2] * 1e-6;
}

}  // namespace switchyard::cuda
