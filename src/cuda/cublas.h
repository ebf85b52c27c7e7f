// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/cublas.h -- grouped GEMMs by cuBLAS: the fallback where Hopper's kernels cannot run, and
// the baseline where they can.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "ops/ops.h"

struct cublasContext;  // cublasHandle_t without including cuBLAS

namespace switchyard::cuda {

// Handle and scratch memory are made here, so that a call allocates nothing. They serve one stream
// at a time.
class Cublas {
 public:
  // Throws Error(Unsupported) where cuBLAS cannot be opened.
  Cublas();

  // Contract in ops/ops.h. Masked groups, or one expert: one strided batch over the capacity, which
  // knows no counts and so can be captured. Contiguous groups of several: one GEMM per expert,
  // after the host has waited for the counts.
  void grouped_gemm(const GroupedGemm& gemm, cudaStream_t stream);

 private:
  // Where the GEMM's result goes, and of which type it is.
  struct Result {
    Tensor rows;  // [C, N]
    bool needs_epilogue;
  };
  static Result result_of(const GroupedGemm& gemm);

  void use(cudaStream_t stream);
  void batch(const GroupedGemm& gemm, Tensor dst);
  void expert_by_expert(const GroupedGemm& gemm, Tensor dst, cudaStream_t stream);
  // dst[b] [rows, N] = src[b] [rows, K] * weights[b]^T, `batches` of them one after the other.
  void multiply(Tensor dst, ConstTensor src, ConstTensor weights, int64_t rows, int64_t batches);

  std::shared_ptr<cublasContext> handle_;
  std::shared_ptr<void> workspace_;  // device
  std::shared_ptr<void> counts_;     // pinned: i32 counts, then i64 first rows
};

}  // namespace switchyard::cuda
