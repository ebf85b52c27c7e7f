// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/tensor_map.cc
#include "cuda/grouped_gemm/tensor_map.h"

#include <cudaTypedefs.h>

#include <array>
#include <cstdint>

#include "device/cuda_check.h"
#include "strategy/gemm_configs.h"

namespace switchyard::cuda {
namespace {

// The driver's encoder, asked for through the runtime so that libcuda need not be linked.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto encode = [] {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult found{};
    SWITCHYARD_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &address,
                                                           12000, cudaEnableDefault, &found));
    SWITCHYARD_REQUIRE(found == cudaDriverEntryPointSuccess, Unsupported,
                       "grouped_gemm: the driver has no cuTensorMapEncodeTiled. Use driver 525 or "
                       "later.");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(address);
  }();
  return encode;
}

// Elements of a stage's row.
cuuint32_t inner_of(DType dtype) {
  return static_cast<cuuint32_t>(kStageRowBytes / dtype_bytes(dtype));
}

CUtensorMapDataType type_of(DType dtype) {
  return dtype == DType::Bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

// Extents innermost first; strides in bytes of every dimension but the innermost. Shared memory is
// swizzled over as many bytes as a row of the box has, 128 or 64.
template <size_t kRank>
CUtensorMap encode(ConstTensor t, const std::array<cuuint64_t, kRank>& extents,
                   const std::array<cuuint64_t, kRank - 1>& strides,
                   const std::array<cuuint32_t, kRank>& box) {
  std::array<cuuint32_t, kRank> steps;
  steps.fill(1);
  const auto swizzle =
      box[0] == inner_of(t.dtype) ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  CUtensorMap map{};
  const CUresult code =
      encoder()(&map, type_of(t.dtype), kRank, const_cast<void*>(t.data), extents.data(),
                strides.data(), box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  SWITCHYARD_REQUIRE(code == CUDA_SUCCESS, Cuda,
                     "grouped_gemm: cuTensorMapEncodeTiled=", static_cast<int>(code),
                     ", innermost extent ", extents[0], ", next ", extents[1],
                     ". Rows must be multiples of 16 bytes at 16-byte addresses.");
  return map;
}

cuuint64_t extent(int64_t n) {
  return static_cast<cuuint64_t>(n);
}

}  // namespace

CUtensorMap map_of_rows(ConstTensor rows, int box_rows, int box_cols) {
  const cuuint64_t cols = extent(rows.dim(1)), bytes = extent(dtype_bytes(rows.dtype));
  return encode<2>(rows, {cols, extent(rows.dim(0))}, {bytes * cols},
                   {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)});
}

CUtensorMap map_of_weights(ConstTensor weights, int box_rows) {
  const cuuint64_t n = extent(weights.dim(1)), k = extent(weights.dim(2));
  const cuuint64_t row = extent(dtype_bytes(weights.dtype)) * k;
  return encode<3>(weights, {k, n, extent(weights.dim(0))}, {row, row * n},
                   {inner_of(weights.dtype), static_cast<cuuint32_t>(box_rows), 1});
}

CUtensorMap map_of_halves(ConstTensor weights, int box_rows) {
  const cuuint64_t n = extent(weights.dim(1)), k = extent(weights.dim(2));
  const cuuint64_t row = extent(dtype_bytes(weights.dtype)) * k;
  return encode<5>(weights, {k, 8, 2, n / 16, extent(weights.dim(0))},
                   {row, row * n / 2, row * 8, row * n},
                   {inner_of(weights.dtype), 8, 2, static_cast<cuuint32_t>(box_rows / 16), 1});
}

}  // namespace switchyard::cuda
