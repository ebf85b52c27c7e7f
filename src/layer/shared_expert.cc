// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/shared_expert.cc
#include "layer/shared_expert.h"

#include <algorithm>

namespace switchyard {

Addend SharedExpert::run(ConstTensor hidden, const SharedExpertBuffers& buffers,
                         CUstream_st* stream) const {
  const int64_t num_tokens = hidden.dim(0), num_scored = config_.shared.num_scored;
  Ops& ops = backend_->ops();
  const RowGroups group{buffers.group.counts, buffers.group.first_row};
  ops.run(SingleGroup{group, num_tokens}, stream);
  const Tensor rows = buffers.rows.rows(0, num_tokens);
  if (num_scored > 0) {
    Tensor each = buffers.each;
    each.shape = {num_scored, num_tokens, config_.hidden};
    for (int64_t s = 0; s < num_scored; ++s)
      run_one(of_expert(each, s), s, hidden, buffers, stream);
    ops.run(WeighShared{rows, each, buffers.weights.rows(0, num_tokens)}, stream);
    return {rows, {}};
  }
  run_one(rows, 0, hidden, buffers, stream);
  if (!config_.shared.sigmoid_gated) return {rows, {}};

  const Tensor gate = buffers.gate.rows(0, num_tokens);
  ops.run(
      single_group_gemm("shared_gate", gate, hidden, weights_.gate.rows(0, 1), group, provider_),
      stream);
  ops.run(Sigmoid{gate, gate}, stream);
  return {rows, gate};
}

Tensor SharedExpert::of_expert(Tensor each, int64_t s) {
  Tensor t = each.rows(s, 1);
  t.shape = {each.dim(1), each.dim(2)};
  return t;
}

void SharedExpert::run_one(Tensor dst, int64_t s, ConstTensor hidden,
                           const SharedExpertBuffers& buffers, CUstream_st* stream) const {
  const int64_t num_tokens = hidden.dim(0), parts = std::max<int64_t>(1, config_.shared.num_scored);
  const int64_t w1_rows = config_.shared_w1_rows() / parts;
  const RowGroups group{buffers.group.counts, buffers.group.first_row};
  Ops& ops = backend_->ops();
  GroupedGemm gemm =
      single_group_gemm("shared_gemm1", buffers.activated.rows(0, num_tokens), hidden,
                        weights_.w1.rows(s * w1_rows, w1_rows), group, provider_);
  gemm.activation = &activation_;
  gemm.order = weights_.order;
  if (buffers.sums.present()) gemm.scratch = buffers.sums.rows(0, num_tokens);
  ops.run(gemm, stream);

  // W2 of S experts is [S, H, Is / S]: rows of an expert are H.
  ConstTensor w2 = weights_.w2;
  w2.shape = {parts * config_.hidden, config_.shared.intermediate / parts};
  ops.run(single_group_gemm("shared_gemm2", dst, gemm.dst,
                            w2.rows(s * config_.hidden, config_.hidden), group, provider_),
          stream);
}

}  // namespace switchyard
