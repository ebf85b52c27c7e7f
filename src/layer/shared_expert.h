// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/shared_expert.h -- the expert that sees every token; its fp32 rows join the final sum.
#pragma once

#include <memory>

#include "base/backend.h"
#include "ops/ops.h"
#include "plan/buffers.h"
#include "switchyard/weights.h"

namespace switchyard {

class SharedExpert {
 public:
  SharedExpert(const MoeConfig& config, const SharedExpertWeights& weights,
               std::shared_ptr<Backend> backend, GemmProvider provider)
      : config_(config),
        activation_(config.shared_activation()),
        weights_(weights),
        backend_(std::move(backend)),
        provider_(provider) {}

  // rows = W2 activation(W1 hidden), never rounded after the second GEMM; scale = sigmoid(hidden .
  // gate). Scored experts are summed with the weights in the buffers.
  Addend run(ConstTensor hidden, const SharedExpertBuffers& buffers, CUstream_st* stream) const;

 private:
  static Tensor of_expert(Tensor each, int64_t s);
  // Expert s of the scored ones, or the only one.
  void run_one(Tensor dst, int64_t s, ConstTensor hidden, const SharedExpertBuffers& buffers,
               CUstream_st* stream) const;

  MoeConfig config_;
  Activation activation_;  // a recorded operation points at it
  SharedExpertWeights weights_;
  std::shared_ptr<Backend> backend_;
  GemmProvider provider_;
};

}  // namespace switchyard
