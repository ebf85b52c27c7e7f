// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/gate.h -- public: choose the top-k experts of each token.
#pragma once

#include <memory>
#include <optional>

#include "switchyard/backend.h"
#include "switchyard/config.h"
#include "switchyard/placement.h"
#include "switchyard/strategy.h"
#include "switchyard/weights.h"

namespace [[gnu::visibility("default")]] switchyard {

class Gate {
 public:
  struct Choice {
    Tensor ids;
    Tensor weights;
    Tensor shared_weights{};
    ConstTensor token_ids{};
    SlotTables slots{};
  };

  virtual ~Gate() = default;

  /// Bytes of scratch for `num_tokens` tokens: the logits, f32, one or, of a router in f32, three
  /// for each expert.
  virtual size_t workspace_bytes(int64_t num_tokens) const = 0;

  /// logits = hidden . router^T + bias in fp32; then the rule of GateConfig.
  ///
  ///   choice.ids             out  i32 [T, K]  by descending score; ties go to the lowest id.
  ///                               Global experts, and zero experts from E on
  ///   choice.weights         out  f32 [T, K]
  ///   choice.shared_weights  out  f32 [T, S]; present exactly if shared experts are scored
  ///   choice.token_ids       in   i32 or i64 [T]; present exactly if token ids choose the experts.
  ///                               One that is none of [0, V) gives INT32_MIN for its experts
  ///   choice.slots           in   of E experts, without zero experts: ids become weight slots. An id
  ///                               that is no expert becomes INT32_MIN, unless it is -1
  ///   hidden                 in   bf16 [T, H]  T may be 0
  ///
  /// Not collective. Enqueued on `stream`; the host does not wait.
  /// Throws Error(ShapeMismatch).
  virtual void choose(const Choice& choice, ConstTensor hidden, Workspace workspace,
                      CUstream_st* stream) = 0;
  /// The same without what few gates have.
  void choose(Tensor ids, Tensor weights, ConstTensor hidden, Workspace workspace,
              CUstream_st* stream) {
    choose({.ids = ids, .weights = weights}, hidden, workspace, stream);
  }
};

/// Throws Error(ShapeMismatch or Unsupported) where `config` and `weights` do not fit each other.
/// Borrows the router's weights, which are memory of the backend's device; of a router in f32 the
/// gate makes a copy of its own, three bf16 for each number, whose products are exact. `provider`
/// of the logits' GEMM: as ExecutorOptions::provider.
std::unique_ptr<Gate> make_gate(const MoeConfig& config, const RouterWeights& weights,
                                std::shared_ptr<Backend> backend,
                                std::optional<GemmProvider> provider = {});

}  // namespace switchyard
