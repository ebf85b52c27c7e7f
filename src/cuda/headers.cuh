// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/headers.cuh -- what the headers of a dispatch tell (layout: base/peer_control.h): the
// lowest rank with an error is found by ballots, 32 ranks at a time.
#pragma once

#include "base/peer_control.h"
#include "cuda/status.cuh"

namespace switchyard::cuda {

// status = that of the lowest rank with an error, or all 0. One warp.
__device__ __forceinline__ bool merge_statuses(int32_t* status, const int32_t* headers,
                                               int num_ranks, int width) {
  const int lane = threadIdx.x;
  for (int first = 0; first < num_ranks; first += 32) {
    const bool bad = first + lane < num_ranks && !is_good(headers + (first + lane) * width);
    const unsigned mask = __ballot_sync(~0u, bad);
    if (mask == 0) continue;
    if (lane < kStatusWords) status[lane] = headers[(first + __ffs(mask) - 1) * width + lane];
    return false;
  }
  if (lane < kStatusWords) status[lane] = 0;
  return true;
}

// status as ops.h says of check_headers. One warp.
__device__ __forceinline__ void check_headers_of_warp(int32_t* status, const int32_t* headers,
                                                      int num_ranks, int width, int tp_size) {
  if (!merge_statuses(status, headers, num_ranks, width)) return;
  for (int first = 0; first < num_ranks; first += 32) {
    const int r = first + static_cast<int>(threadIdx.x);
    StatusDetail detail = StatusDetail::None;
    int32_t value = 0;
    if (r < num_ranks) {
      const int32_t* mine = headers + r * width;
      const int32_t* group = headers + r / tp_size * tp_size * width;
      if (mine[kHeaderMaxTokens] != headers[kHeaderMaxTokens]) {
        detail = StatusDetail::MaxTokensDiffer;
        value = mine[kHeaderMaxTokens];
      } else if (!same_placement(mine[kHeaderPlacement], headers[kHeaderPlacement])) {
        detail = StatusDetail::PlacementsDiffer;
        value = mine[kHeaderPlacement];
      } else if (mine[kHeaderTokens] != group[kHeaderTokens]) {
        detail = StatusDetail::SliceTokensDiffer;
        value = mine[kHeaderTokens];
      }
    }
    const unsigned mask = __ballot_sync(~0u, detail != StatusDetail::None);
    if (mask == 0) continue;
    // merge_statuses wrote zeros, through other lanes: nothing to look at before noting.
    __syncwarp();
    if (static_cast<int>(threadIdx.x) == __ffs(mask) - 1)
      write_status(status, Errc::ShapeMismatch, detail, r, value);
    return;
  }
}

}  // namespace switchyard::cuda
