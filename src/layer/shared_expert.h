// src/layer/shared_expert.h -- the expert that sees every token; its fp32 rows join the final sum.
#pragma once

#include <memory>

#include "base/backend.h"
#include "base/buffers.h"
#include "ops/ops.h"
#include "switchyard/weights.h"

namespace switchyard {

class SharedExpert {
 public:
  SharedExpert(const MoeConfig& config, const SharedExpertWeights& weights,
               std::shared_ptr<Backend> backend, GemmProvider provider)
      : config_(config), weights_(weights), backend_(std::move(backend)), provider_(provider) {}

  // rows = W2 activation(W1 hidden), never rounded after the second GEMM; scale = sigmoid(hidden .
  // gate).
  Addend run(ConstTensor hidden, const SharedExpertBuffers& buffers, CUstream_st* stream) const;

 private:
  MoeConfig config_;
  SharedExpertWeights weights_;
  std::shared_ptr<Backend> backend_;
  GemmProvider provider_;
};

}  // namespace switchyard
