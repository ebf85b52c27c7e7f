// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/exchange.cuh -- what the headers of a dispatch tell (layout: plan/buffers.h).
//
// P headers of W words are a few KiB: one warp finds the lowest rank with an error by ballots, 32
// ranks at a time, and one block reads the counts. Bound by the latency of a launch.
#pragma once

#include "cuda/headers.cuh"
#include "cuda/launch.h"
#include "cuda/ptx/ld_st_sys.cuh"

namespace switchyard::cuda {

inline constexpr int kExchangeThreads = 256;

__global__ __launch_bounds__(32) void merge_status_kernel(int32_t* __restrict__ status,
                                                          const int32_t* __restrict__ headers,
                                                          int num_ranks, int width) {
  wait_for_predecessor();
  allow_successor();
  merge_statuses(status, headers, num_ranks, width);
}

// dst[t, p] = p * stride + t
__global__ __launch_bounds__(kExchangeThreads) void block_rows_kernel(int32_t* __restrict__ dst,
                                                                      int64_t stride, int num_ranks,
                                                                      int64_t count) {
  wait_for_predecessor();
  allow_successor();
  const int64_t i = int64_t{blockIdx.x} * kExchangeThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t t = i / num_ranks, p = i - t * num_ranks;
  dst[i] = static_cast<int32_t>(p * stride + t);
}

__global__ __launch_bounds__(32) void check_headers_kernel(int32_t* __restrict__ status,
                                                           const int32_t* __restrict__ headers,
                                                           int num_ranks, int width, int tp_size) {
  wait_for_predecessor();
  allow_successor();
  check_headers_of_warp(status, headers, num_ranks, width, tp_size);
}

struct ReadCountsParams {
  int32_t* counts;       // [P, P]
  int32_t* counts_back;  // [P, P]
  int32_t* num_rows;     // [1]
  const int32_t* headers;
  const int32_t* status;
  int num_ranks, width, rank;
};

__global__ __launch_bounds__(kExchangeThreads) void read_counts_kernel(
    const __grid_constant__ ReadCountsParams p) {
  wait_for_predecessor();
  allow_successor();
  const bool good = is_good(p.status);
  for (int i = threadIdx.x; i < p.num_ranks * p.num_ranks; i += kExchangeThreads) {
    const int s = i / p.num_ranks, d = i % p.num_ranks;
    const int32_t rows = good ? p.headers[s * p.width + kHeaderCounts + d] : 0;
    p.counts[i] = rows;
    p.counts_back[d * p.num_ranks + s] = rows;
  }
  if (threadIdx.x >= 32) return;
  int32_t received = 0;
  for (int s = threadIdx.x; good && s < p.num_ranks; s += 32)
    received += p.headers[s * p.width + kHeaderCounts + p.rank];
  received = __reduce_add_sync(~0u, received);
  if (threadIdx.x == 0) p.num_rows[0] = received;
}

__global__ __launch_bounds__(32) void note_ended_kernel(int32_t* __restrict__ status,
                                                        const int32_t* __restrict__ ended,
                                                        int rank) {
  wait_for_predecessor();
  allow_successor();
  if (threadIdx.x != 0 || ptx::ld_relaxed_sys(ended) == 0) return;
  write_status(status, Errc::Transport, StatusDetail::PeerLost, rank, kGivenUpByHost);
}

}  // namespace switchyard::cuda
