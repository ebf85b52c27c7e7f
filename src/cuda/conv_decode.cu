// src/cuda/conv_decode.cu
#include "cuda/conv_decode.cuh"

#include <algorithm>

#include "base/checked.h"
#include "base/state_slots.h"
#include "cuda/ops.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {
namespace {

// About 16 blocks on each of an H100's multiprocessors, as many as fit; with more sequences each
// block takes several, and keeps its weights in L1.
constexpr int64_t kConvBlocks = 2112;

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
          .width = static_cast<int>(step.weight.dim(1)),
          .num_tokens = step_tokens(step),
          .silu = step.activation == ConvActivation::Silu};
}

template <class X, class S>
void conv_decode_of(const ConvDecodeParams& params, cudaStream_t stream) {
  const int64_t tiles = ceil_div(params.dim, kConvTile);
  const int64_t rows = std::min<int64_t>(params.batch, ceil_div(kConvBlocks, tiles));
  const size_t smem_bytes = conv_decode_smem_bytes<X, S>(params.width, params.num_tokens);
  allow_smem(conv_decode_kernel<X, S>, smem_bytes);
  launch(conv_decode_kernel<X, S>, dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(rows)),
         kConvThreads, smem_bytes, stream, params);
}

}  // namespace

void conv_decode(const ConvDecode& step, Tensor status, cudaStream_t stream) {
  const ConvDecodeParams params = params_of(step, status);
  const bool wide_x = step.x.dtype == DType::F32, wide_state = step.state.dtype == DType::F32;
  if (wide_x && wide_state)
    conv_decode_of<float, float>(params, stream);
  else if (wide_x)
    conv_decode_of<float, __nv_bfloat16>(params, stream);
  else if (wide_state)
    conv_decode_of<__nv_bfloat16, float>(params, stream);
  else
    conv_decode_of<__nv_bfloat16, __nv_bfloat16>(params, stream);
}

}  // namespace switchyard::cuda
