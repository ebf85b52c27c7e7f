// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/cublas.cc
#include "cuda/cublas.h"

#include "cuda/cublas_library.h"
#include "cuda/gemm_epilogue.h"
#include "device/cuda_check.h"

namespace switchyard::cuda {
namespace {

// What NVIDIA recommends for Hopper; more than any other device asks for.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

std::shared_ptr<void> make_workspace() {
  void* address = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaMalloc(&address, kWorkspaceBytes));
  return {address, [](void* p) { (void)cudaFree(p); }};
}

// Counts and first rows of as many experts as a layer can have.
constexpr size_t kCountsBytes = kMaxExperts * sizeof(int32_t);
constexpr size_t kFirstRowBytes = (kMaxExperts + 1) * sizeof(int64_t);

std::shared_ptr<void> make_pinned() {
  void* address = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaMallocHost(&address, kCountsBytes + kFirstRowBytes));
  return {address, [](void* p) { (void)cudaFreeHost(p); }};
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::F32 ? CUDA_R_32F : CUDA_R_16BF;
}

bool reads_sums(const GroupedGemm& g) {
  return g.activation != nullptr || g.bias.present() || g.row_weights.present();
}

void refuse_capture(const GroupedGemm& g, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  SWITCHYARD_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  SWITCHYARD_REQUIRE(status == cudaStreamCaptureStatusNone, Unsupported, g.name,
                     ": provider=cublas, contiguous groups wait for the stream to read counts, "
                     "which a captured stream cannot. Use hopper or masked+cublas.");
}

}  // namespace

Cublas::Cublas()
    : handle_(make_cublas_handle()), workspace_(make_workspace()), counts_(make_pinned()) {}

void Cublas::grouped_gemm(const GroupedGemm& gemm, cudaStream_t stream) {
  if (gemm.src.dim(0) == 0 || gemm.max_rows == 0) return;
  const Result result = result_of(gemm);
  const bool one_batch = gemm.layout == Layout::Masked || gemm.weights.dim(0) == 1;
  if (!one_batch) {
    SWITCHYARD_REQUIRE(gemm.host_counts, Unsupported, gemm.name,
                       ": provider=cublas, contiguous groups need their counts on the host. Set "
                       "host_counts, or use hopper or masked+cublas.");
    refuse_capture(gemm, stream);
  }
  use(stream);
  one_batch ? batch(gemm, result.rows) : expert_by_expert(gemm, result.rows, stream);
  if (result.needs_epilogue) gemm_epilogue(gemm, result.rows, stream);
}

Cublas::Result Cublas::result_of(const GroupedGemm& g) {
  const bool needs_epilogue = reads_sums(g);
  if (!needs_epilogue) return {g.dst, false};
  const Shape wanted{g.src.dim(0), g.weights.dim(1)};
  if (g.scratch.present()) {
    SWITCHYARD_REQUIRE(g.scratch.shape == wanted && g.scratch.dtype == DType::F32, ShapeMismatch,
                       g.name, ": scratch is not f32 [", wanted[0], ", ", wanted[1], "].");
    return {g.scratch, true};
  }
  const bool fits = g.dst.dtype == DType::F32 && g.dst.shape == wanted;
  SWITCHYARD_REQUIRE(fits, ShapeMismatch, g.name, ": scratch is missing, need f32 [", wanted[0],
                     ", ", wanted[1], "] for the sums that its epilogue reads.");
  return {g.dst, true};
}

// Setting a stream resets the workspace to cuBLAS's own, so both belong together.
void Cublas::use(cudaStream_t stream) {
  const CublasLibrary& cublas = cublas_library();
  SWITCHYARD_CUBLAS_CHECK(cublas.set_stream(handle_.get(), stream));
  SWITCHYARD_CUBLAS_CHECK(cublas.set_workspace(handle_.get(), workspace_.get(), kWorkspaceBytes));
}

void Cublas::batch(const GroupedGemm& g, Tensor dst) {
  const int64_t experts = g.weights.dim(0);
  multiply(dst, g.src, g.weights, g.src.dim(0) / experts, experts);
}

void Cublas::expert_by_expert(const GroupedGemm& g, Tensor dst, cudaStream_t stream) {
  const int64_t experts = g.weights.dim(0);
  auto* counts = static_cast<int32_t*>(counts_.get());
  auto* first_row =
      reinterpret_cast<int64_t*>(static_cast<std::byte*>(counts_.get()) + kCountsBytes);
  const auto bytes = [](ConstTensor t) { return static_cast<size_t>(t.bytes()); };
  SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(counts, g.groups.counts.data, bytes(g.groups.counts),
                                        cudaMemcpyDeviceToHost, stream));
  SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(first_row, g.groups.first_row.data,
                                        bytes(g.groups.first_row), cudaMemcpyDeviceToHost, stream));
  SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
  for (int64_t e = 0; e < experts; ++e) {
    if (counts[e] == 0) continue;
    multiply(dst.rows(first_row[e], counts[e]), g.src.rows(first_row[e], counts[e]),
             g.weights.rows(e, 1), counts[e], 1);
  }
}

// cuBLAS is column-major: its N x rows is our row-major [rows, N], and our weights [N, K] are its
// K x N, transposed.
void Cublas::multiply(Tensor dst, ConstTensor src, ConstTensor weights, int64_t rows,
                      int64_t batches) {
  const int n = static_cast<int>(weights.dim(1)), k = static_cast<int>(weights.dim(2));
  const int m = static_cast<int>(rows);
  const int64_t n_k = int64_t{n} * k, m_k = rows * k, m_n = rows * n;
  const float one = 1, zero = 0;
  const cudaDataType_t type = type_of(dst.dtype);
  const CublasLibrary& cublas = cublas_library();
  if (batches == 1)
    SWITCHYARD_CUBLAS_CHECK(cublas.gemm(handle_.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, &one,
                                        weights.data, CUDA_R_16BF, k, src.data, CUDA_R_16BF, k,
                                        &zero, dst.data, type, n, CUBLAS_COMPUTE_32F,
                                        CUBLAS_GEMM_DEFAULT));
  else
    SWITCHYARD_CUBLAS_CHECK(cublas.gemm_strided_batched(
        handle_.get(), CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, &one, weights.data, CUDA_R_16BF, k, n_k,
        src.data, CUDA_R_16BF, k, m_k, &zero, dst.data, type, n, m_n, static_cast<int>(batches),
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

}  // namespace switchyard::cuda
