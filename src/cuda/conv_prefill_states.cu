// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/conv_prefill_states.cu
#include "cuda/conv_prefill_states.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/run.h"
#include "plan/state_slots.h"

namespace switchyard::cuda {
namespace {

constexpr int64_t kMaxDeals = 64;  // blocks that share the states of one sequence

template <class X, class S>
void conv_prefill_states_of(const ConvPrefillParams& params, dim3 grid, cudaStream_t stream) {
  launch(conv_prefill_states_kernel<X, S>, grid, kPrefillThreads, 0, stream, params);
}

}  // namespace

template <>
void run(const ConvPrefillStatesStep& op, cudaStream_t stream) {
  const int64_t batch = op.step.prefix_lengths.dim(0),
                tiles = ceil_div(op.step.x.dim(1), kPrefillThreads);
  const ConvPrefillParams params{.state = op.step.state.data,
                                 .x = op.step.x.data,
                                 .starts = op.step.starts.as<int32_t>(),
                                 .prefix_lengths = op.step.prefix_lengths.as<int32_t>(),
                                 .status = op.status.as<int32_t>(),
                                 .table = state_table(op.step.map, op.step.state.dim(0)),
                                 .block_stride = op.step.state.stride(0),
                                 .num_rows = op.step.x.dim(0),
                                 .dim = static_cast<int>(op.step.x.dim(1)),
                                 .depth = static_cast<int>(op.step.state.dim(2)),
                                 .tiles = static_cast<int>(tiles)};
  SWITCHYARD_REQUIRE(batch * tiles <= INT32_MAX, Unsupported, "conv_prefill_states: B=", batch,
                     " sequences of D=", op.step.x.dim(1), ", need at most ", INT32_MAX,
                     " blocks of ", kPrefillThreads, " channels. Take several steps.");
  // The host knows only how many states there are at most.
  const int64_t most = op.step.x.dim(0) / op.step.map.block_tokens + 2;
  const dim3 grid(static_cast<unsigned>(batch * tiles),
                  static_cast<unsigned>(std::min(most, kMaxDeals)));
  const bool wide_x = op.step.x.dtype == DType::F32, wide_state = op.step.state.dtype == DType::F32;
  if (wide_x && wide_state)
    conv_prefill_states_of<float, float>(params, grid, stream);
  else if (wide_x)
    conv_prefill_states_of<float, __nv_bfloat16>(params, grid, stream);
  else if (wide_state)
    conv_prefill_states_of<__nv_bfloat16, float>(params, grid, stream);
  else
    conv_prefill_states_of<__nv_bfloat16, __nv_bfloat16>(params, grid, stream);
}

}  // namespace switchyard::cuda
