// src/layer/shared_expert.cc
#include "layer/shared_expert.h"

namespace switchyard {
namespace {

ConstTensor as_one_expert(ConstTensor matrix) {
  matrix.shape = {1, matrix.dim(0), matrix.dim(1)};
  return matrix;
}

}  // namespace

Addend SharedExpert::run(ConstTensor hidden, const SharedExpertBuffers& buffers,
                         CUstream_st* stream) const {
  const int64_t num_tokens = hidden.dim(0);
  Ops& ops = backend_->ops();
  GroupedGemm gemm;
  gemm.groups = {buffers.group.counts, buffers.group.first_row};
  gemm.max_rows = num_tokens;
  gemm.provider = provider_;
  ops.single_group(gemm.groups, num_tokens, stream);

  gemm.name = "shared_gemm1";
  gemm.dst = buffers.activated.rows(0, num_tokens);
  gemm.src = hidden;
  gemm.weights = as_one_expert(weights_.w1);
  gemm.activation = &config_.activation;
  gemm.order = weights_.order;
  if (buffers.sums.present()) gemm.scratch = buffers.sums.rows(0, num_tokens);
  ops.grouped_gemm(gemm, stream);

  gemm.name = "shared_gemm2";
  gemm.src = gemm.dst;
  gemm.dst = buffers.rows.rows(0, num_tokens);
  gemm.weights = as_one_expert(weights_.w2);
  gemm.activation = nullptr;
  gemm.scratch = {};
  ops.grouped_gemm(gemm, stream);
  if (!config_.shared.sigmoid_gated) return {gemm.dst, {}};

  const Tensor rows = gemm.dst, gate = buffers.gate.rows(0, num_tokens);
  gemm.name = "shared_gate";
  gemm.src = hidden;
  gemm.dst = gate;
  gemm.weights = as_one_expert(weights_.gate);
  ops.grouped_gemm(gemm, stream);
  ops.sigmoid(gate, gate, stream);
  return {rows, gate};
}

}  // namespace switchyard
