// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/router_logits.cu
#include "cuda/router_logits.cuh"

#include "base/checked.h"
#include "cuda/run.h"
#include "cuda/shared_memory.h"
#include "switchyard/backend.h"

namespace switchyard::cuda {
namespace {

// Logits up to which clusters were seen to be faster than the grouped GEMM (decisions 63 and 68).
constexpr int64_t kFewLogits = 256 * 1024;

template <class Tile>
void launch_clusters(const RouterParams& params, cudaStream_t stream) {
  const LaunchShape shape = shape_of<Tile>(params);
  allow_smem(router_logits_kernel<Tile>, shape.smem_bytes);
  launch(router_logits_kernel<Tile>, shape, stream, params);
}

void launch_gemm(const RouterLogits& op, int num_sms, cudaStream_t stream) {
  run(SingleGroup{op.group, op.hidden.dim(0)}, stream);
  GroupedGemm gemm = single_group_gemm(RouterLogits::kName, op.logits, op.hidden, op.weights,
                                       op.group, GemmProvider::Hopper);
  gemm.chunk = params_of(op).chunk;
  grouped_gemm_hopper(gemm, num_sms, stream);
}

// Whether wide tiles read tokens less often than narrow ones, and keep every SM busy.
bool is_wide(const RouterParams& params) {
  const dim3 grid = shape_of<WideRouterTile>(params).grid;
  return params.n > 2 * NarrowRouterTile::kWeights &&
         static_cast<int>(grid.x * grid.y) >= describe_device(DeviceKind::Cuda).num_sms;
}

}  // namespace

RouterParams params_of(const RouterLogits& op) {
  const int64_t inner = op.hidden.dim(1);
  const int64_t chunk = align_up(ceil_div(inner, kRouterChunks), kRouterStep);
  return {.logits = op.logits.as<float>(),
          .hidden = op.hidden.as<__nv_bfloat16>(),
          .weights = op.weights.as<__nv_bfloat16>(),
          .num_tokens = static_cast<int>(op.hidden.dim(0)),
          .n = static_cast<int>(op.weights.dim(0)),
          .inner = static_cast<int>(inner),
          .chunk = static_cast<int>(chunk),
          .num_chunks = static_cast<int>(ceil_div(inner, chunk))};
}

bool takes_clusters(const RouterLogits& op) {
  return op.logits.count() <= kFewLogits;
}

void router_logits(const RouterLogits& op, int num_sms, cudaStream_t stream) {
  if (!takes_clusters(op)) return launch_gemm(op, num_sms, stream);
  const RouterParams params = params_of(op);
  is_wide(params) ? launch_clusters<WideRouterTile>(params, stream)
                  : launch_clusters<NarrowRouterTile>(params, stream);
}

}  // namespace switchyard::cuda
