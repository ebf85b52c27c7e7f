// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/arrange_weights.cc -- layouts that engines keep experts in, made those of the kernels.
#include "base/arena.h"
#include "base/backend.h"
#include "device/memory.h"
#include "ops/ops.h"

namespace switchyard {
namespace {

// A tensor of the experts, and what its copy is, if it needs one.
struct Arrangement {
  ConstTensor ExpertWeights::*tensor;
  bool wanted = false;
  Shape shape{};  // of the copy
  DType dtype = DType::Bf16;
  bool transposed = false, interleaved = false;
};

Arrangement matrix(ConstTensor ExpertWeights::*tensor, const ExpertWeights& w, bool interleaved) {
  const Shape s = (w.*tensor).shape;
  return {tensor,
          w.transposed || interleaved,
          w.transposed ? Shape{s[0], s[2], s[1]} : s,
          DType::Bf16,
          w.transposed,
          interleaved};
}

Arrangement bias(ConstTensor ExpertWeights::*tensor, const ExpertWeights& w, bool interleaved) {
  const ConstTensor t = w.*tensor;
  const bool wanted = t.present() && (interleaved || t.dtype == DType::Bf16);
  return {tensor, wanted, t.shape, DType::F32, false, interleaved};
}

std::array<Arrangement, 4> arrangements(const ExpertWeights& w) {
  const bool turns = w.order == GateUpOrder::Interleaved;
  return {matrix(&ExpertWeights::w1, w, turns), matrix(&ExpertWeights::w2, w, false),
          bias(&ExpertWeights::b1, w, turns), bias(&ExpertWeights::b2, w, false)};
}

// Rows of a bias have one element.
ArrangeWeights operation(const Arrangement& a, Tensor dst, ConstTensor src) {
  if (a.shape.rank() == 2) dst.shape = src.shape = {a.shape[0], a.shape[1], 1};
  return {dst, src, a.transposed, a.interleaved};
}

}  // namespace

int64_t arranged_bytes(const ExpertWeights& weights) {
  Arena arena({});
  for (const Arrangement& a : arrangements(weights))
    if (a.wanted) arena.take(a.dtype, a.shape);
  return static_cast<int64_t>(arena.bytes());
}

bool is_arranged(const ExpertWeights& weights) {
  for (const Arrangement& a : arrangements(weights))
    if (a.wanted) return false;
  return true;
}

LayerWeights arrange_weights(const LayerWeights& weights, const MoeConfig& config, int num_ranks,
                             Backend& backend) {
  validate(weights, config, num_ranks, backend.kind());
  if (is_arranged(weights.experts)) return weights;
  const auto bytes = static_cast<size_t>(arranged_bytes(weights.experts));
  const std::shared_ptr<void> memory = backend.memory().allocate(bytes);
  Arena arena({memory.get(), bytes}, backend.kind());
  LayerWeights arranged = weights;
  for (const Arrangement& a : arrangements(weights.experts)) {
    if (!a.wanted) continue;
    const Tensor copy = arena.take(a.dtype, a.shape);
    backend.ops().run(operation(a, copy, weights.experts.*a.tensor), nullptr);
    arranged.experts.*a.tensor = copy;
  }
  arranged.experts.transposed = false;
  if (weights.experts.order == GateUpOrder::Interleaved)
    arranged.experts.order = GateUpOrder::GateUp;
  int32_t first = 0;  // whatever it is: reading it waits for all of them
  backend.memory().read_back(&first, ConstTensor(memory.get(), DType::I32, {1}, backend.kind()),
                             nullptr);
  arranged.owner = std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<void>>>(
      weights.owner, memory);
  return arranged;
}

}  // namespace switchyard
