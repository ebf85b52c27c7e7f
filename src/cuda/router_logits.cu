// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/router_logits.cu
#include "cuda/router_logits.cuh"

#include "base/require.h"
#include "cuda/run.h"
#include "cuda/shared_memory.h"
#include "plan/capacity.h"

namespace switchyard::cuda {

template <>
void run(const RouterLogits& op, cudaStream_t stream) {
  const int64_t num_tokens = op.hidden.dim(0), inner = op.hidden.dim(1), n = op.weights.dim(0);
  static_assert(router_chunk(1) % kRouterStep == 0 && router_chunk(INT32_MAX) % kRouterStep == 0);
  const int64_t token_tiles = ceil_div(num_tokens, kRouterTile);
  constexpr int64_t kMostBlocks = 65535;  // along y
  SWITCHYARD_REQUIRE(token_tiles <= kMostBlocks, ShapeMismatch, "router: tokens=", num_tokens,
                     ", at most ", kMostBlocks * kRouterTile, ". Use a smaller max_tokens.");
  const RouterParams params{.logits = op.logits.as<float>(),
                            .hidden = op.hidden.as<__nv_bfloat16>(),
                            .weights = op.weights.as<__nv_bfloat16>(),
                            .num_tokens = static_cast<int>(num_tokens),
                            .n = static_cast<int>(n),
                            .inner = static_cast<int>(inner),
                            .chunk = static_cast<int>(router_chunk(inner)),
                            .num_splits = op.num_splits};
  constexpr size_t kBytes = kRouterStages * sizeof(RouterStage);
  allow_smem(router_logits_kernel, kBytes);
  launch(router_logits_kernel,
         dim3(static_cast<unsigned>(ceil_div(n, kRouterTile)), static_cast<unsigned>(token_tiles),
              static_cast<unsigned>(op.num_splits)),
         kRouterThreads, kBytes, stream, params);
}

}  // namespace switchyard::cuda
