// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/launch_kernel.cuh -- what launches of all operands have in common.
#pragma once

#include <algorithm>

#include "cuda/grouped_gemm/params.cuh"
#include "cuda/grouped_gemm/tensor_map.h"
#include "cuda/launch.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {

inline StoreParams store_of(const GemmConfig& config, Tensor dst, bool gated) {
  StoreParams store{};
  store.dst = dst.data;
  store.is_f32 = dst.dtype == DType::F32;
  const int box_rows =
      config.rows_first ? kStoredRows : store_box_rows(config.staging_bytes(), gated);
  if (dst.dtype == DType::Bf16) store.boxes = map_of_rows(dst, box_rows, store_box_cols(gated));
  return store;
}

// No more clusters than steps can be: row_tiles times tiles of weights. Blocks that stream take one
// step each.
inline void launch_kernel(const GemmConfig& config, const GemmParams& params, int64_t row_tiles,
                          int num_sms, cudaStream_t stream) {
  GemmKernel kernel = nullptr;
  visit_gemm_config(config, [&]<GemmConfig kConfig>() { kernel = gemm_kernel<kConfig>(); });
  const auto smem_bytes = static_cast<size_t>(shared_bytes(config, params.num_experts));
  allow_smem(kernel, smem_bytes);
  const int64_t step_weights = int64_t{config.weights} * config.cluster_weights;
  const int64_t steps = row_tiles * ((params.out.n + step_weights - 1) / step_weights);
  const int64_t clusters =
      config.streams() ? steps : std::min<int64_t>(num_sms / config.cluster(), steps);
  launch(kernel,
         LaunchShape{.grid = static_cast<unsigned>(clusters * config.cluster()),
                     .block = static_cast<unsigned>(config.threads()),
                     .smem_bytes = smem_bytes,
                     .cluster = static_cast<unsigned>(config.cluster())},
         stream, params);
}

}  // namespace switchyard::cuda
