// src/gate/gate.cc -- router logits by the grouped GEMM (one group, fp32 out), then the gate's
// rule.
#include "switchyard/gate.h"

#include "base/backend.h"
#include "base/buffers.h"
#include "base/require.h"
#include "ops/ops.h"

namespace switchyard {
namespace {

class RouterGate final : public Gate {
 public:
  RouterGate(const MoeConfig& config, const RouterWeights& weights,
             std::shared_ptr<Backend> backend, GemmProvider provider)
      : config_(config), weights_(weights), backend_(std::move(backend)), provider_(provider) {
    weights_.weight.shape = {1, config.num_experts, config.hidden};
    if (weights_.bias.present()) weights_.bias.shape = {1, config.num_experts};
  }

  size_t workspace_bytes(int64_t num_tokens) const override {
    Arena arena({});
    GateBuffers::take(arena, config_, num_tokens);
    return arena.bytes();
  }

  void choose(Tensor ids, Tensor weights, ConstTensor hidden, Workspace workspace,
              CUstream_st* stream) override {
    const int64_t num_tokens = hidden.shape.rank() == 2 ? hidden.dim(0) : -1;
    check(ids, weights, hidden, num_tokens);
    Arena arena(workspace, backend_->kind());
    const auto buffers = GateBuffers::take(arena, config_, num_tokens);
    Ops& ops = backend_->ops();

    GroupedGemm gemm;
    gemm.name = "router";
    gemm.dst = buffers.logits;
    gemm.src = hidden;
    gemm.weights = weights_.weight;
    gemm.bias = weights_.bias;
    gemm.groups = {buffers.group.counts, buffers.group.first_row};
    gemm.max_rows = num_tokens;
    gemm.provider = provider_;  // cuBLAS adds a bias in place: the logits are its fp32 sums
    ops.single_group(gemm.groups, num_tokens, stream);
    ops.grouped_gemm(gemm, stream);
    ops.gate_topk(ids, weights, buffers.logits, weights_.correction_bias, config_.gate, stream);
  }

 private:
  void check(Tensor ids, Tensor weights, ConstTensor hidden, int64_t num_tokens) const {
    SWITCHYARD_REQUIRE(
        num_tokens >= 0 && hidden.dim(1) == config_.hidden && hidden.dtype == DType::Bf16,
        ShapeMismatch, "gate: hidden is not bf16 [T, ", config_.hidden, "].");
    const Shape slots{num_tokens, config_.top_k};
    SWITCHYARD_REQUIRE(ids.shape == slots && ids.dtype == DType::I32, ShapeMismatch,
                       "gate: ids is not i32 [", num_tokens, ", ", config_.top_k, "].");
    SWITCHYARD_REQUIRE(weights.shape == slots && weights.dtype == DType::F32, ShapeMismatch,
                       "gate: weights is not f32 [", num_tokens, ", ", config_.top_k, "].");
  }

  MoeConfig config_;
  RouterWeights weights_;
  std::shared_ptr<Backend> backend_;
  GemmProvider provider_;
};

void check_device(const char* name, ConstTensor t, DeviceKind device) {
  SWITCHYARD_REQUIRE(
      !t.present() || t.device == device, ShapeMismatch, "gate: ", name, " is on ",
      device_name(t.device), ", the gate runs on ", device_name(device),
      device == DeviceKind::Cuda ? ". Copy them with to_device." : ". Pass the ones on the host.");
}

void check_vector(const char* name, ConstTensor t, bool wanted, int64_t num_experts) {
  SWITCHYARD_REQUIRE(t.present() == wanted, ShapeMismatch, "gate: ", name,
                     wanted ? " is missing" : " is given",
                     ", the config says otherwise. Make weights and config agree.");
  if (wanted)
    SWITCHYARD_REQUIRE(t.dtype == DType::F32 && t.count() == num_experts && t.shape.rank() == 1,
                       ShapeMismatch, "gate: ", name, " is not f32 [", num_experts, "].");
}

}  // namespace

std::unique_ptr<Gate> make_gate(const MoeConfig& config, const RouterWeights& weights,
                                std::shared_ptr<Backend> backend,
                                std::optional<GemmProvider> provider) {
  validate(config);
  const ConstTensor w = weights.weight;
  SWITCHYARD_REQUIRE(
      w.shape == (Shape{config.num_experts, config.hidden}) && w.dtype == DType::Bf16,
      ShapeMismatch, "gate: router weight is not bf16 [", config.num_experts, ", ", config.hidden,
      "].");
  check_vector("router bias", weights.bias, config.router_bias, config.num_experts);
  check_vector("correction bias", weights.correction_bias, config.gate.correction_bias,
               config.num_experts);
  check_device("router weight", weights.weight, backend->kind());
  check_device("router bias", weights.bias, backend->kind());
  check_device("correction bias", weights.correction_bias, backend->kind());
  const GemmProvider chosen = provider.value_or(backend->provider());
  return std::make_unique<RouterGate>(config, weights, std::move(backend), chosen);
}

}  // namespace switchyard
