// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/choose_experts.cu -- router and gate as one kernel, where a tile has every logit of a token:
// no logit is in memory, and nothing waits for a second kernel.
#include "cuda/gate_topk.cuh"
#include "cuda/router_logits.cuh"
#include "cuda/run.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {
namespace {

using Tile = WideRouterTile;
constexpr int kWarps = Tile::kThreads / 32;

struct Storage {
  Tile::Storage tile;
  float logits[kWarps][Tile::kWeights];  // of each warp's token
};

// The blocks of a cluster, each of which has a chunk of every sum, share out the tokens.
__global__ __launch_bounds__(Tile::kThreads) void choose_experts_kernel(
    const __grid_constant__ RouterParams router, const __grid_constant__ GateTopkParams gate) {
  extern __shared__ __align__(128) uint8_t base[];
  allow_successor();
  auto& shared = *reinterpret_cast<Storage*>(base);
  const Tile tile(router, shared.tile);
  tile.start();
  tile.multiply();
  ptx::barrier_cluster_sync_aligned();

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* const logits = shared.logits[warp];
  auto* const words = reinterpret_cast<uint32_t*>(&shared + 1) + warp * gate.words_per_token;
  for (int token = tile.chunk * kWarps + warp; token < tile.num_tokens;
       token += router.num_chunks * kWarps) {
    for (int e = lane; e < tile.num_weights; e += 32) logits[e] = tile.logit(token, e);
    __syncwarp();
    choose_for_token<false>(gate, tile.first_token + token, logits, words);
    __syncwarp();  // before the next token's logits
  }
  ptx::barrier_cluster_sync_aligned();  // a block's memory stays while it is read
}

// Where one kernel was seen to be faster than two (decision 68). A tile has all experts: few tokens are
// few blocks, each of which reads much, and of few experts most of a tile is empty.
constexpr int64_t kManyTokens = 512, kManyExperts = 65;

bool is_one_kernel(const ChooseExperts& op) {
  const int64_t num_tokens = op.router.hidden.dim(0), num_experts = op.router.weights.dim(0);
  return num_tokens >= kManyTokens && num_experts >= kManyExperts &&
         num_experts <= Tile::kWeights && is_plain(op.gate) && takes_clusters(op.router);
}

}  // namespace

void choose_experts(const ChooseExperts& op, int num_sms, cudaStream_t stream) {
  if (!is_one_kernel(op)) {
    router_logits(op.router, num_sms, stream);
    return run(op.gate, stream);
  }
  const RouterParams router = params_of(op.router);
  const GateTopkParams gate = params_of(op.gate);
  const size_t words = static_cast<size_t>(kWarps) * static_cast<size_t>(gate.words_per_token);
  const LaunchShape shape =
      shape_of<Tile>(router, sizeof(Storage) - sizeof(Tile::Storage) + words * sizeof(uint32_t));
  allow_smem(choose_experts_kernel, shape.smem_bytes);
  launch(choose_experts_kernel, shape, stream, router, gate);
}

}  // namespace switchyard::cuda
