// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/routed_path.cc
#include "layer/routed_path.h"

namespace switchyard {

ConstTensor RoutedPath::before(ConstTensor hidden, const PathBuffers& buffers,
                               CUstream_st* stream) const {
  const Tensor rows = buffers.rows.rows(0, hidden.dim(0));
  if (config_.path.input_norm) {
    norm(rows, hidden, weights_.input_norm, stream);
    return rows;
  }
  if (config_.path.latent == 0) return hidden;
  Ops& ops = backend_->ops();
  const RowGroups group{buffers.group.counts, buffers.group.first_row};
  ops.run(SingleGroup{group, hidden.dim(0)}, stream);
  ops.run(single_group_gemm("latent_down", rows, hidden, weights_.down, group, provider_), stream);
  return rows;
}

void RoutedPath::after(Tensor output, const Addend& shared, const PathBuffers& buffers,
                       CUstream_st* stream) const {
  const int64_t num_tokens = output.dim(0);
  const Tensor sums = buffers.sums.rows(0, num_tokens);
  Ops& ops = backend_->ops();
  if (config_.path.latent == 0) {
    if (config_.path.output_norm)
      norm(output, sums, weights_.output_norm, stream);
    else
      ops.run(Copy{output, sums}, stream);
    return;
  }
  const Tensor rows = config_.path.output_norm ? buffers.rows.rows(0, num_tokens) : sums;
  if (config_.path.output_norm) norm(rows, sums, weights_.output_norm, stream);
  const Tensor up = buffers.up.rows(0, num_tokens);
  const RowGroups group{buffers.group.counts, buffers.group.first_row};
  ops.run(single_group_gemm("latent_up", up, rows, weights_.up, group, provider_), stream);
  ops.run(AddRows{output, up, shared}, stream);
}

void RoutedPath::norm(Tensor dst, ConstTensor src, ConstTensor weight, CUstream_st* stream) const {
  backend_->ops().run(NormRows{.dst = dst,
                               .inverse = {},
                               .src = src,
                               .weight = weight,
                               .epsilon = config_.path.norm_epsilon},
                      stream);
}

}  // namespace switchyard
