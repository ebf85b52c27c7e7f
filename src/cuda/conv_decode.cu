// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/conv_decode.cu
#include "cuda/conv_decode.cuh"

#include <algorithm>
#include <type_traits>

#include "base/checked.h"
#include "cuda/run.h"
#include "plan/state_slots.h"

namespace switchyard::cuda {
namespace {

constexpr int64_t kConvSms = 132;  // of an H100

ConvDecodeParams params_of(const ConvDecode& step, Tensor status) {
  return {.output = step.output.data,
          .x = step.x.data,
          .state = step.state.data,
          .weight = step.weight.as<float>(),
          .bias = step.bias.as<float>(),
          .lengths = step.map.sequence_lengths.as<int32_t>(),
          .status = status.as<int32_t>(),
          .table = state_table(step.map, step.state.dim(0)),
          .block_stride = step.state.stride(0),
          .batch = static_cast<int>(step.x.dim(0)),
          .dim = static_cast<int>(step.x.dim(1)),
          .silu = step.activation == ConvActivation::Silu};
}

// Not more blocks than fit at once: each then takes several sequences.
template <class X, class S, int kWidth, int kTokens>
void conv_decode_of(const ConvDecodeParams& params, cudaStream_t stream) {
  using Tile = ConvTile<X, S, kWidth, kTokens>;
  const int64_t tiles = ceil_div(params.dim, Tile::kChannels);
  const int64_t rows = std::min(ceil_div(params.batch, kConvWarps),
                                std::max<int64_t>(1, kConvSms * Tile::kBlocksPerSm / tiles));
  launch(conv_decode_kernel<X, S, kWidth, kTokens>,
         dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(rows)), kConvThreads, 0, stream,
         params);
}

// Calls f with `value`, one of kFrom to kTo, as a constant.
template <int kFrom, int kTo, class F>
void with_constant(int64_t value, F f) {
  if constexpr (kFrom < kTo)
    if (value > kFrom) return with_constant<kFrom + 1, kTo>(value, f);
  f(std::integral_constant<int, kFrom>{});
}

template <class X, class S>
void conv_decode_of_shape(const ConvDecode& step, const ConvDecodeParams& params,
                          cudaStream_t stream) {
  with_constant<kMinConvWidth, kMaxConvWidth>(step.weight.dim(1), [&](auto width) {
    with_constant<1, kMaxStepTokens>(step_tokens(step), [&](auto tokens) {
      conv_decode_of<X, S, width(), tokens()>(params, stream);
    });
  });
}

}  // namespace

template <>
void run(const ConvDecodeStep& op, cudaStream_t stream) {
  const ConvDecodeParams params = params_of(op.step, op.status);
  const bool wide_x = op.step.x.dtype == DType::F32, wide_state = op.step.state.dtype == DType::F32;
  if (wide_x && wide_state)
    conv_decode_of_shape<float, float>(op.step, params, stream);
  else if (wide_x)
    conv_decode_of_shape<float, __nv_bfloat16>(op.step, params, stream);
  else if (wide_state)
    conv_decode_of_shape<__nv_bfloat16, float>(op.step, params, stream);
  else
    conv_decode_of_shape<__nv_bfloat16, __nv_bfloat16>(op.step, params, stream);
}

}  // namespace switchyard::cuda
