// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/place_slots.cu -- a thread per slot. No dispatcher on a GPU asks for it; it completes the
// list, and ranks that send messages there would.
#include <algorithm>

#include "base/checked.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "plan/index.h"

namespace switchyard::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 2048;

__global__ __launch_bounds__(kThreads) void place_slots_kernel(
    int32_t* __restrict__ dst, const int32_t* __restrict__ return_row,
    const int32_t* __restrict__ ids, int num_slots, int top_k, int num_ranks, int num_experts,
    int per_rank) {
  wait_for_predecessor();
  allow_successor();
  const int stride = static_cast<int>(gridDim.x) * kThreads;
  for (int s = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); s < num_slots; s += stride) {
    const int id = ids[s], t = s / top_k;
    dst[s] = is_expert(id, num_experts)
                 ? return_row[t * num_ranks + id / per_rank] * top_k + s - t * top_k
                 : kNoRow;
  }
}

}  // namespace

template <>
void run(const PlaceSlots& op, cudaStream_t stream) {
  const int64_t num_slots = op.ids.count(), num_ranks = op.return_row.dim(1);
  launch(place_slots_kernel, std::min(ceil_div(num_slots, int64_t{kThreads}), kMaxBlocks), kThreads,
         0, stream, op.dst.as<int32_t>(), op.return_row.as<int32_t>(), op.ids.as<int32_t>(),
         static_cast<int>(num_slots), static_cast<int>(op.ids.dim(1)), static_cast<int>(num_ranks),
         static_cast<int>(op.num_experts),
         static_cast<int>(experts_of_rank(op.num_experts, num_ranks)));
}

}  // namespace switchyard::cuda
