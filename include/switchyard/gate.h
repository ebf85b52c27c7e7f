// include/switchyard/gate.h -- public: choose the top-k experts of each token.
#pragma once

#include <memory>
#include <optional>

#include "switchyard/backend.h"
#include "switchyard/config.h"
#include "switchyard/strategy.h"
#include "switchyard/weights.h"

namespace switchyard {

class Gate {
 public:
  virtual ~Gate() = default;

  /// Bytes of scratch for `num_tokens` tokens: the logits, f32 [T, E].
  virtual size_t workspace_bytes(int64_t num_tokens) const = 0;

  /// logits = hidden . router^T + bias in fp32; then the rule of GateConfig.
  ///
  ///   ids      out  i32 [T, K]  global experts, by descending score; ties go to the lowest id
  ///   weights  out  f32 [T, K]
  ///   hidden   in   bf16 [T, H]  T may be 0
  ///
  /// Not collective. Enqueued on `stream`; the host does not wait.
  /// Throws Error(ShapeMismatch).
  virtual void choose(Tensor ids, Tensor weights, ConstTensor hidden, Workspace workspace,
                      CUstream_st* stream) = 0;
};

/// Throws Error(ShapeMismatch or Unsupported) where `config` and `weights` do not fit each other.
/// Borrows the router's weights, which are memory of the backend's device. `provider` of the
/// logits' GEMM: as ExecutorOptions::provider.
std::unique_ptr<Gate> make_gate(const MoeConfig& config, const RouterWeights& weights,
                                std::shared_ptr<Backend> backend,
                                std::optional<GemmProvider> provider = {});

}  // namespace switchyard
