// src/cuda/cublas_rate.cc -- the rate of cuBLAS, which bounds what a GEMM can be expected to reach.
#include <cublas_v2.h>

#include <algorithm>
#include <memory>

#include "cuda/measure.h"
#include "device/cuda_check.h"

namespace switchyard::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;

void check(cublasStatus_t status, const char* what) {
  SWITCHYARD_REQUIRE(status == CUBLAS_STATUS_SUCCESS, Cuda, "measure_device: ", what, ", ",
                     cublasGetStatusName(status), ". Is the device healthy and free?");
}

std::shared_ptr<cublasContext> make_handle() {
  cublasHandle_t handle = nullptr;
  check(cublasCreate(&handle), "cublasCreate");
  return {handle, [](cublasHandle_t h) { (void)cublasDestroy(h); }};
}

}  // namespace

double cublas_tflops(void* c, const void* a, const void* b, int n, int repeat, Backend& backend,
                     Stopwatch& watch) {
  // Lent: cuBLAS would allocate its own inside the capture.
  const auto workspace = allocate(backend, kWorkspaceBytes);
  const auto handle = make_handle();
  check(cublasSetStream(handle.get(), watch.stream()), "cublasSetStream");
  check(cublasSetWorkspace(handle.get(), workspace.get(), kWorkspaceBytes), "cublasSetWorkspace");
  const float one = 1, zero = 0;
  const auto gemm = [&](CUstream_st*) {
    check(cublasGemmEx(handle.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a, CUDA_R_16BF, n, b,
                       CUDA_R_16BF, n, &zero, c, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  };
  gemm(nullptr);  // loads its kernel before anything is captured
  auto us = watch.replay(gemm, repeat, Cache::Warm);
  std::sort(us.begin(), us.end());
  const double side = n;
  return 2 * side * side * side / us[us.size() / 2] * 1e-6;
}

}  // namespace switchyard::cuda
