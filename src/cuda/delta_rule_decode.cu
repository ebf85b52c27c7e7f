// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/delta_rule_decode.cu
#include "cuda/delta_rule_decode.cuh"

#include <cmath>

#include "base/checked.h"
#include "cuda/run.h"
#include "plan/state_slots.h"

namespace switchyard::cuda {
namespace {

StridedHeads heads_of(const ConstStridedTensor& t) {
  return {numbers_of(t), t.stride(0), t.stride(1), t.stride(2)};
}

DeltaRuleParams params_of(const DeltaRuleDecode& step, Tensor status) {
  const int64_t key_dim = step.k.dim(3);
  return {.output = step.output.data,
          .state = step.state.as<float>(),
          .q = heads_of(step.q),
          .k = heads_of(step.k),
          .v = heads_of(step.v),
          .g = numbers_of(step.g),
          .beta = numbers_of(step.beta),
          .lengths = step.map.sequence_lengths.as<int32_t>(),
          .status = status.as<int32_t>(),
          .table = state_table(step.map, step.state.dim(0)),
          .block_stride = step.state.stride(0),
          .scale = step.scale.value_or(1.0f / std::sqrt(static_cast<float>(key_dim))),
          .num_tokens = static_cast<int>(step.v.dim(1)),
          .num_value_heads = static_cast<int>(step.v.dim(2)),
          .heads_per_key = static_cast<int>(step.v.dim(2) / step.k.dim(2)),
          .value_dim = static_cast<int>(step.v.dim(3)),
          .key_dim = static_cast<int>(key_dim),
          .tiles = 0,
          .output_is_f32 = step.output.dtype == DType::F32,
          .beta_per_value = step.beta.shape.rank() == 4,
          .l2_normalize = step.l2_normalize};
}

template <int kVectors, int kRows>
void delta_rule_decode_of(DeltaRuleParams params, int64_t heads, cudaStream_t stream) {
  const int64_t tiles = ceil_div(params.value_dim, kDeltaPassRows * kRows);
  const int64_t blocks = checked_mul(heads, tiles, "delta_rule_decode");
  SWITCHYARD_REQUIRE(blocks <= INT32_MAX, Unsupported, "delta_rule_decode: blocks=", blocks,
                     ", need at most ", INT32_MAX, ". Take fewer sequences in a step.");
  params.tiles = static_cast<int>(tiles);
  launch(delta_rule_decode_kernel<kVectors, kRows>, dim3(static_cast<unsigned>(blocks)),
         kDeltaThreads, 0, stream, params);
}

}  // namespace

template <>
void run(const DeltaRuleDecodeStep& op, cudaStream_t stream) {
  const DeltaRuleParams params = params_of(op.step, op.status);
  const int64_t heads = op.step.v.dim(0) * op.step.v.dim(2);
  // 32 floats of state per thread: 128 bytes on their way, and no spill.
  if (params.key_dim <= 64)
    delta_rule_decode_of<2, 4>(params, heads, stream);
  else if (params.key_dim <= 128)
    delta_rule_decode_of<4, 2>(params, heads, stream);
  else
    delta_rule_decode_of<8, 1>(params, heads, stream);
}

}  // namespace switchyard::cuda
