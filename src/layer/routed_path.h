// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/routed_path.h -- what is around the routed experts: norms, and a latent space that
// they work in.
#pragma once

#include <memory>

#include "base/backend.h"
#include "ops/ops.h"
#include "plan/buffers.h"
#include "switchyard/weights.h"

namespace switchyard {

class RoutedPath {
 public:
  RoutedPath(const MoeConfig& config, const RoutedPathWeights& weights,
             std::shared_ptr<Backend> backend, GemmProvider provider)
      : config_(config), weights_(weights), backend_(std::move(backend)), provider_(provider) {}

  // The rows that experts get: down(norm(hidden)), bf16 [T, L] or [T, H].
  ConstTensor before(ConstTensor hidden, const PathBuffers& buffers, CUstream_st* stream) const;
  // output = up(norm(buffers.sums)) + shared, of which up's sums are never rounded.
  void after(Tensor output, const Addend& shared, const PathBuffers& buffers,
             CUstream_st* stream) const;

 private:
  void norm(Tensor dst, ConstTensor src, ConstTensor weight, CUstream_st* stream) const;

  MoeConfig config_;
  RoutedPathWeights weights_;
  std::shared_ptr<Backend> backend_;
  GemmProvider provider_;
};

}  // namespace switchyard
