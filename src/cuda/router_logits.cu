// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/router_logits.cu
#include "cuda/router_logits.cuh"

#include "base/checked.h"
#include "cuda/run.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {
namespace {

// Logits up to which this kernel was seen to be faster than the grouped GEMM (decision 63).
constexpr int64_t kFewLogits = 256 * 1024;

void launch_few(const RouterLogits& op, int64_t chunk, cudaStream_t stream) {
  const int64_t num_tokens = op.hidden.dim(0), inner = op.hidden.dim(1), n = op.weights.dim(0);
  const int64_t num_chunks = ceil_div(inner, chunk);
  allow_smem(router_logits_kernel, sizeof(RouterTile::Storage));
  launch(router_logits_kernel,
         LaunchShape{
             .grid = dim3(static_cast<unsigned>(ceil_div(n, RouterTile::kWeights) * num_chunks),
                          static_cast<unsigned>(ceil_div(num_tokens, RouterTile::kTokens))),
             .block = RouterTile::kThreads,
             .smem_bytes = sizeof(RouterTile::Storage),
             .cluster = static_cast<unsigned>(num_chunks)},
         stream,
         RouterParams{.logits = op.logits.as<float>(),
                      .hidden = op.hidden.as<__nv_bfloat16>(),
                      .weights = op.weights.as<__nv_bfloat16>(),
                      .num_tokens = static_cast<int>(num_tokens),
                      .n = static_cast<int>(n),
                      .inner = static_cast<int>(inner),
                      .chunk = static_cast<int>(chunk),
                      .num_chunks = static_cast<int>(num_chunks)});
}

void launch_many(const RouterLogits& op, int64_t chunk, int num_sms, cudaStream_t stream) {
  run(SingleGroup{op.group, op.hidden.dim(0)}, stream);
  GroupedGemm gemm = single_group_gemm(RouterLogits::kName, op.logits, op.hidden, op.weights,
                                       op.group, GemmProvider::Hopper);
  gemm.chunk = chunk;
  grouped_gemm_hopper(gemm, num_sms, stream);
}

}  // namespace

void router_logits(const RouterLogits& op, int num_sms, cudaStream_t stream) {
  const int64_t chunk = align_up(ceil_div(op.hidden.dim(1), kRouterChunks), kRouterStep);
  op.logits.count() <= kFewLogits ? launch_few(op, chunk, stream)
                                  : launch_many(op, chunk, num_sms, stream);
}

}  // namespace switchyard::cuda
