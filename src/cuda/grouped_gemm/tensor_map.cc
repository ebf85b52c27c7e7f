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

constexpr cuuint64_t kBytes = element_bytes(OperandKind::Bf16);
constexpr cuuint32_t kInner = kStageRowBytes / kBytes;

// Extents innermost first; strides in bytes of every dimension but the innermost. Shared memory is
// swizzled over as many bytes as a row of the box has, 128 or 64.
template <size_t kRank>
CUtensorMap encode(const void* address, const std::array<cuuint64_t, kRank>& extents,
                   const std::array<cuuint64_t, kRank - 1>& strides,
                   const std::array<cuuint32_t, kRank>& box) {
  std::array<cuuint32_t, kRank> steps;
  steps.fill(1);
  const auto swizzle = box[0] == kInner ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
  CUtensorMap map{};
  const CUresult code = encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<void*>(address), extents.data(),
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
  const cuuint64_t cols = extent(rows.dim(1));
  return encode<2>(rows.data, {cols, extent(rows.dim(0))}, {kBytes * cols},
                   {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)});
}

CUtensorMap map_of_weights(ConstTensor weights, int box_rows) {
  const cuuint64_t n = extent(weights.dim(1)), k = extent(weights.dim(2));
  return encode<3>(weights.data, {k, n, extent(weights.dim(0))}, {kBytes * k, kBytes * k * n},
                   {kInner, static_cast<cuuint32_t>(box_rows), 1});
}

CUtensorMap map_of_halves(ConstTensor weights, int box_rows) {
  const cuuint64_t n = extent(weights.dim(1)), k = extent(weights.dim(2));
  return encode<5>(weights.data, {k, 8, 2, n / 16, extent(weights.dim(0))},
                   {kBytes * k, kBytes * k * n / 2, kBytes * k * 8, kBytes * k * n},
                   {kInner, 8, 2, static_cast<cuuint32_t>(box_rows / 16), 1});
}

}  // namespace switchyard::cuda
