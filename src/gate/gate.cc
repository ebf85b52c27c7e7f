// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/gate/gate.cc -- router logits in fp32, then the gate's rule.
#include "switchyard/gate.h"

#include "base/as_error.h"
#include "base/backend.h"
#include "base/overlap.h"
#include "base/require.h"
#include "device/memory.h"
#include "ops/ops.h"
#include "plan/buffers.h"

namespace switchyard {
namespace {

// A router in f32 as three in bf16, one after the other. Waits: a first call may come on a stream
// that does not wait for the default one.
std::shared_ptr<void> split_router(ConstTensor weight, Backend& backend) {
  const auto bytes = static_cast<size_t>(weight.count() * kRouterParts) * sizeof(Bf16);
  std::shared_ptr<void> memory = allocate(backend, bytes);
  const Shape parts{kRouterParts, weight.dim(0), weight.dim(1)};
  const Tensor split(memory.get(), DType::Bf16, parts, backend.kind());
  backend.ops().run(SplitF32{split, weight}, nullptr);
  uint16_t first = 0;
  backend.memory().read_back(&first, ConstTensor(split.data, DType::Bf16, {1}, backend.kind()),
                             nullptr);
  return memory;
}

void check_device(const char* name, ConstTensor t, DeviceKind device) {
  SWITCHYARD_REQUIRE(
      !t.present() || t.device == device, ShapeMismatch, "gate: ", name, " is on ",
      device_name(t.device), ", the gate runs on ", device_name(device),
      device == DeviceKind::Cuda ? ". Copy them with to_device." : ". Pass the ones on the host.");
}

class RouterGate final : public Gate {
 public:
  RouterGate(const MoeConfig& config, const RouterWeights& weights,
             std::shared_ptr<Backend> backend, GemmProvider provider)
      : config_(config), weights_(weights), backend_(std::move(backend)), provider_(provider) {
    ConstTensor& router = weights_.weight;
    if (config.router_f32) {
      parts_ = split_router(router, *backend_);
      router = ConstTensor(parts_.get(), DType::Bf16, {}, backend_->kind());
    }
    router.shape = {router_parts(config) * config.router_rows(), config.hidden};
  }

  size_t workspace_bytes(int64_t num_tokens) const override {
    Arena arena({});
    GateBuffers::take(arena, config_, num_tokens);
    return arena.bytes();
  }

  void choose(const Choice& choice, ConstTensor hidden, Workspace workspace,
              CUstream_st* stream) override {
    const int64_t num_tokens = hidden.shape.rank() == 2 ? hidden.dim(0) : -1;
    check(choice, hidden, num_tokens);
    Arena arena(workspace, backend_->kind());
    const auto buffers = GateBuffers::take(arena, config_, num_tokens);
    arena.require_memory("gate");
    Ops& ops = backend_->ops();
    if (config_.gate.rms_of_hidden)
      ops.run(NormRows{.dst = {},
                       .inverse = buffers.inverse_rms,
                       .src = hidden,
                       .weight = {},
                       .epsilon = config_.path.norm_epsilon},
              stream);
    const RowGroups group{buffers.group.counts, buffers.group.first_row};
    const GateTopk gate = rule(buffers, choice);
    if (provider_ != GemmProvider::Cublas)
      return ops.run(ChooseExperts{{buffers.logits, hidden, weights_.weight, group}, gate}, stream);
    ops.run(SingleGroup{group, num_tokens}, stream);
    ops.run(single_group_gemm("router", buffers.logits, hidden, weights_.weight, group, provider_),
            stream);
    ops.run(gate, stream);
  }

 private:
  GateTopk rule(const GateBuffers& buffers, const Choice& choice) const {
    return {.ids = choice.ids,
            .weights = choice.weights,
            .shared_weights = choice.shared_weights,
            .logits = buffers.logits,
            .logit_parts = static_cast<int>(router_parts(config_)),
            .row_scale = buffers.inverse_rms,
            .bias = weights_.bias,
            .correction_bias = weights_.correction_bias,
            .expert_scale = weights_.expert_scale,
            .token_ids = choice.token_ids,
            .token_experts = weights_.token_experts,
            .slots = choice.slots,
            .gate = config_.gate};
  }

  void check(const Choice& choice, ConstTensor hidden, int64_t num_tokens) const {
    SWITCHYARD_REQUIRE(num_tokens >= 0 && num_tokens <= INT32_MAX &&
                           hidden.dim(1) == config_.hidden && hidden.dtype == DType::Bf16,
                       ShapeMismatch, "gate: hidden is not bf16 [T, ", config_.hidden, "].");
    const Shape slots{num_tokens, config_.top_k};
    SWITCHYARD_REQUIRE(choice.ids.shape == slots && choice.ids.dtype == DType::I32, ShapeMismatch,
                       "gate: ids is not i32 [", num_tokens, ", ", config_.top_k, "].");
    SWITCHYARD_REQUIRE(choice.weights.shape == slots && choice.weights.dtype == DType::F32,
                       ShapeMismatch, "gate: weights is not f32 [", num_tokens, ", ", config_.top_k,
                       "].");
    const int64_t scored = config_.shared.num_scored;
    const Shape shared = scored > 0 ? Shape{num_tokens, scored} : Shape{};
    SWITCHYARD_REQUIRE(choice.shared_weights.shape == shared &&
                           (scored == 0 || choice.shared_weights.dtype == DType::F32),
                       ShapeMismatch, "gate: shared_weights is not f32 [", num_tokens, ", ", scored,
                       "], one for each scored shared expert; absent for none.");
    const bool by_token = config_.gate.vocabulary > 0;
    const DType dtype = choice.token_ids.dtype;
    SWITCHYARD_REQUIRE(choice.token_ids.shape == (by_token ? Shape{num_tokens} : Shape{}) &&
                           (!by_token || dtype == DType::I32 || dtype == DType::I64),
                       ShapeMismatch, "gate: token_ids ", by_token ? "is not i32 or i64 [" : "is ",
                       by_token ? cat(num_tokens, "], which choose the experts of this layer.")
                                : "given, the layer chooses by scores. Leave it away.");
    check_slots(choice.slots);
    check_views(choice, hidden);
  }

  void check_slots(const SlotTables& slots) const {
    if (!slots.present()) return;
    const int64_t num_experts = config_.num_experts;
    SWITCHYARD_REQUIRE(config_.gate.num_zero_experts == 0, Unsupported,
                       "gate: slots are given, the layer has zero experts, which have none. Leave "
                       "them away.");
    const bool has_tables = slots.active.shape == Shape{1} && slots.active.dtype == DType::I32 &&
                            slots.tables.shape.rank() == 2 && slots.tables.dim(0) == 2 &&
                            slots.tables.dim(1) > 2 * num_experts &&
                            slots.tables.dtype == DType::I32;
    SWITCHYARD_REQUIRE(
        slots.num_experts == num_experts && (!slots.active.present() || has_tables), ShapeMismatch,
        "gate: slots are not i32 [1] and [2, E + 1 + S] of E=", num_experts, ", S >= E.");
    SWITCHYARD_REQUIRE(!slots.loads.present() || (slots.loads.shape == Shape{num_experts} &&
                                                  slots.loads.dtype == DType::I64),
                       ShapeMismatch, "gate: loads of slots are not i64 [", num_experts, "].");
    check_view("active of slots", slots.active);
    check_view("tables of slots", slots.tables);
    check_view("loads of slots", slots.loads);
  }

  // Shapes are known to be good.
  void check_views(const Choice& choice, ConstTensor hidden) const {
    check_view("hidden", hidden);
    check_view("token_ids", choice.token_ids);
    const auto check_output = [&](const char* name, ConstTensor output) {
      check_view(name, output);
      SWITCHYARD_REQUIRE(!overlap(output, hidden) && !overlap(output, choice.token_ids),
                         ShapeMismatch, "gate: ", name,
                         " overlaps what is read. Give it memory of its own.");
    };
    check_output("ids", choice.ids);
    check_output("weights", choice.weights);
    check_output("shared_weights", choice.shared_weights);
    SWITCHYARD_REQUIRE(!overlap(choice.ids, choice.weights) &&
                           !overlap(choice.ids, choice.shared_weights) &&
                           !overlap(choice.weights, choice.shared_weights),
                       ShapeMismatch,
                       "gate: ids, weights or shared_weights overlap each other. Give each memory "
                       "of its own.");
  }
  void check_view(const char* name, ConstTensor t) const {
    if (t.count() == 0) return;
    check_device(name, t, backend_->kind());
    SWITCHYARD_REQUIRE(t.data != nullptr, ShapeMismatch, "gate: ", name,
                       " is null, need memory for ", t.count(), " elements.");
    // Rows of hidden are copied as vectors.
    const int64_t alignment = t.dtype == DType::Bf16 ? 16 : dtype_bytes(t.dtype);
    SWITCHYARD_REQUIRE(reinterpret_cast<uintptr_t>(t.data) % alignment == 0, Misaligned,
                       "gate: ", name, " address is not a multiple of ", alignment, ". Align it.");
  }

  MoeConfig config_;
  RouterWeights weights_;
  std::shared_ptr<void> parts_;  // of a router in f32
  std::shared_ptr<Backend> backend_;
  GemmProvider provider_;
};

void check_vector(const char* name, ConstTensor t, bool wanted, int64_t num_experts) {
  SWITCHYARD_REQUIRE(t.present() == wanted, ShapeMismatch, "gate: ", name,
                     wanted ? " is missing" : " is given",
                     ", the config says otherwise. Make weights and config agree.");
  if (wanted)
    SWITCHYARD_REQUIRE(t.dtype == DType::F32 && t.count() == num_experts && t.shape.rank() == 1,
                       ShapeMismatch, "gate: ", name, " is not f32 [", num_experts, "].");
}

void check_table(ConstTensor t, const MoeConfig& config) {
  const bool wanted = config.gate.vocabulary > 0;
  const Shape shape = wanted ? Shape{config.gate.vocabulary, config.top_k} : Shape{};
  SWITCHYARD_REQUIRE(t.shape == shape && (!wanted || t.dtype == DType::I32), ShapeMismatch,
                     "gate: token experts are not i32 [", config.gate.vocabulary, ", ",
                     config.top_k, "], absent for a vocabulary of 0.");
}

}  // namespace

std::unique_ptr<Gate> make_gate(const MoeConfig& config, const RouterWeights& weights,
                                std::shared_ptr<Backend> backend,
                                std::optional<GemmProvider> provider) {
  validate(config);
  require_backend("make_gate", backend);
  SWITCHYARD_REQUIRE(!config.ids_are_given, ShapeMismatch,
                     "make_gate: the config says that ids are given. Leave ids_are_given off.");
  const ConstTensor w = weights.weight;
  const DType dtype = config.router_f32 ? DType::F32 : DType::Bf16;
  SWITCHYARD_REQUIRE(w.shape == (Shape{config.router_rows(), config.hidden}) && w.dtype == dtype,
                     ShapeMismatch, "gate: router weight is not ", dtype_name(dtype), " [",
                     config.router_rows(), ", ", config.hidden, "].");
  check_vector("router bias", weights.bias, config.router_bias, config.router_rows());
  check_vector("correction bias", weights.correction_bias, config.gate.correction_bias,
               config.num_choices());
  check_vector("expert scale", weights.expert_scale, config.gate.expert_scale,
               config.router_rows());
  check_table(weights.token_experts, config);
  check_device("router weight", weights.weight, backend->kind());
  check_device("router bias", weights.bias, backend->kind());
  check_device("correction bias", weights.correction_bias, backend->kind());
  check_device("expert scale", weights.expert_scale, backend->kind());
  check_device("token experts", weights.token_experts, backend->kind());
  const GemmProvider chosen = provider.value_or(backend->provider());
  return as_errors("make_gate", [&] {
    backend->prepare(chosen);
    return std::make_unique<RouterGate>(config, weights, std::move(backend), chosen);
  });
}

}  // namespace switchyard
