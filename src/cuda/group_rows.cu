// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/group_rows.cu
#include "cuda/group_rows.cuh"

#include "base/require.h"
#include "cuda/run.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {

template <>
void run(const GroupRows& op, cudaStream_t stream) {
  const int64_t num_experts = op.groups.counts.count();
  SWITCHYARD_REQUIRE(op.row_expert.count() < INT32_MAX, ShapeMismatch,
                     "group_rows: rows=", op.row_expert.count(),
                     ", need fewer than 2^31 - 1. Pass a smaller buffer.");
  const GroupRowsParams params{.row_expert = op.row_expert.as<int32_t>(),
                               .counts = op.groups.counts.as<int32_t>(),
                               .first_row = op.groups.first_row.as<int64_t>(),
                               .status = op.status.as<int32_t>(),
                               .num_rows = op.row_expert.count(),
                               .num_experts = static_cast<int>(num_experts),
                               .rank = op.rank};
  const size_t smem_bytes = group_rows_smem_bytes(num_experts);
  allow_smem(group_rows_kernel, smem_bytes);
  launch(group_rows_kernel, 1, kGroupThreads, smem_bytes, stream, params);
}

}  // namespace switchyard::cuda
