// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/cublas_library.h -- cuBLAS, opened when it is first asked for.
#pragma once

#include <cublas_v2.h>

#include <memory>
#include <string>

namespace switchyard::cuda {

// What is called of it. The header overloads two of them, so that their types have to be said.
struct CublasLibrary {
  using Gemm = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n,
                              int k, const void* alpha, const void* a, cudaDataType, int lda,
                              const void* b, cudaDataType, int ldb, const void* beta, void* c,
                              cudaDataType, int ldc, cublasComputeType_t, cublasGemmAlgo_t);
  using GemmStridedBatched = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t,
                                            int m, int n, int k, const void* alpha, const void* a,
                                            cudaDataType, int lda, long long stride_a,
                                            const void* b, cudaDataType, int ldb,
                                            long long stride_b, const void* beta, void* c,
                                            cudaDataType, int ldc, long long stride_c, int batches,
                                            cublasComputeType_t, cublasGemmAlgo_t);

  decltype(&::cublasCreate) create;
  decltype(&::cublasDestroy) destroy;
  decltype(&::cublasSetStream) set_stream;
  decltype(&::cublasSetWorkspace) set_workspace;
  Gemm* gemm;
  GemmStridedBatched* gemm_strided_batched;
  decltype(&::cublasGetStatusName) status_name;
  decltype(&::cublasGetStatusString) status_string;
};

// Throws Error(Unsupported) where it cannot be opened.
const CublasLibrary& cublas_library();

void check_cublas(cublasStatus_t status, const char* what);

std::shared_ptr<cublasContext> make_cublas_handle();

}  // namespace switchyard::cuda

// `call` is one of the library's, as written.
#define SWITCHYARD_CUBLAS_CHECK(call) ::switchyard::cuda::check_cublas((call), #call)
