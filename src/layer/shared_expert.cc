// src/layer/shared_expert.cc
#include "layer/shared_expert.h"

#include <algorithm>

namespace switchyard {
namespace {

// Rows [first, first + num) of a matrix, as the weights of one expert.
ConstTensor as_one_expert(ConstTensor matrix, int64_t first, int64_t num) {
  const ConstTensor part = matrix.rows(first, num);
  return {part.data, part.dtype, {1, num, matrix.dim(1)}, part.device};
}

}  // namespace

Addend SharedExpert::run(ConstTensor hidden, const SharedExpertBuffers& buffers,
                         CUstream_st* stream) const {
  const int64_t num_tokens = hidden.dim(0), num_scored = config_.shared.num_scored;
  Ops& ops = backend_->ops();
  ops.run(SingleGroup{{buffers.group.counts, buffers.group.first_row}, num_tokens}, stream);
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
  GroupedGemm gemm = gemm_of("shared_gate", gate, hidden, buffers);
  gemm.weights = as_one_expert(weights_.gate, 0, 1);
  ops.run(gemm, stream);
  ops.run(Sigmoid{gate, gate}, stream);
  return {rows, gate};
}

Tensor SharedExpert::of_expert(Tensor each, int64_t s) {
  Tensor t = each.rows(s, 1);
  t.shape = {each.dim(1), each.dim(2)};
  return t;
}

GroupedGemm SharedExpert::gemm_of(const char* name, Tensor dst, ConstTensor src,
                                  const SharedExpertBuffers& buffers) const {
  GroupedGemm gemm;
  gemm.name = name;
  gemm.dst = dst;
  gemm.src = src;
  gemm.groups = {buffers.group.counts, buffers.group.first_row};
  gemm.max_rows = src.dim(0);
  gemm.provider = provider_;
  return gemm;
}

void SharedExpert::run_one(Tensor dst, int64_t s, ConstTensor hidden,
                           const SharedExpertBuffers& buffers, CUstream_st* stream) const {
  const int64_t num_tokens = hidden.dim(0), parts = std::max<int64_t>(1, config_.shared.num_scored);
  const int64_t w1_rows = config_.shared_w1_rows() / parts;
  const Activation activation = config_.shared_activation();
  Ops& ops = backend_->ops();
  GroupedGemm gemm =
      gemm_of("shared_gemm1", buffers.activated.rows(0, num_tokens), hidden, buffers);
  gemm.weights = as_one_expert(weights_.w1, s * w1_rows, w1_rows);
  gemm.activation = &activation;
  gemm.order = weights_.order;
  if (buffers.sums.present()) gemm.scratch = buffers.sums.rows(0, num_tokens);
  ops.run(gemm, stream);

  // W2 of S experts is [S, H, Is / S]: rows of an expert are H.
  ConstTensor w2 = weights_.w2;
  w2.shape = {parts * config_.hidden, config_.shared.intermediate / parts};
  GroupedGemm second = gemm_of("shared_gemm2", dst, gemm.dst, buffers);
  second.weights = as_one_expert(w2, s * config_.hidden, config_.hidden);
  ops.run(second, stream);
}

}  // namespace switchyard
