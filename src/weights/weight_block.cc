// src/weights/weight_block.cc
#include "weights/weight_block.h"

#include <charconv>
#include <cstdlib>
#include <string>

#include "base/require.h"
#include "weights/available_memory.h"

namespace switchyard {
namespace {

// "1.50 GiB", "194.00 MiB"; the same in every locale.
std::string size_text(uint64_t bytes) {
  const bool large = bytes >= uint64_t{1} << 30;
  const double value = static_cast<double>(bytes) / (large ? 1 << 30 : 1 << 20);
  char digits[32];
  const auto end =
      std::to_chars(digits, digits + sizeof(digits), value, std::chars_format::fixed, 2).ptr;
  return std::string(digits, end) + (large ? " GiB" : " MiB");
}

int64_t checked_local_experts(const MoeConfig& config, int num_ranks) {
  validate(config);
  SWITCHYARD_REQUIRE(num_ranks >= 1, ShapeMismatch, "weights: ranks=", num_ranks,
                     ", need at least 1.");
  return experts_of_rank(config.num_experts, num_ranks);
}

void take_router(WeightBlock& b, Arena& arena, const MoeConfig& c) {
  b.router = arena.take(c.router_f32 ? DType::F32 : DType::Bf16, {c.router_rows(), c.hidden});
  if (c.router_bias) b.router_bias = arena.take(DType::F32, {c.router_rows()});
  if (c.gate.correction_bias) b.correction_bias = arena.take(DType::F32, {c.num_choices()});
  if (c.gate.expert_scale) b.expert_scale = arena.take(DType::F32, {c.router_rows()});
  if (c.gate.vocabulary > 0) b.token_experts = arena.take(DType::I32, {c.gate.vocabulary, c.top_k});
}

void take_shared(WeightBlock& b, Arena& arena, const MoeConfig& c) {
  const int64_t is = c.shared.intermediate;
  if (is == 0) return;
  b.shared_w1 = arena.take(DType::Bf16, {c.shared_w1_rows(), c.hidden});
  b.shared_w2 = arena.take(DType::Bf16, {c.hidden, is});
  if (c.shared.sigmoid_gated) b.shared_gate = arena.take(DType::Bf16, {1, c.hidden});
}

void take_path(WeightBlock& b, Arena& arena, const MoeConfig& c) {
  const RoutedPathConfig& p = c.path;
  if (p.input_norm) b.input_norm = arena.take(DType::F32, {c.hidden});
  if (p.latent > 0) b.down = arena.take(DType::Bf16, {p.latent, c.hidden});
  if (p.output_norm) b.output_norm = arena.take(DType::F32, {c.routed_hidden()});
  if (p.latent > 0) b.up = arena.take(DType::Bf16, {c.hidden, p.latent});
}

}  // namespace

WeightBlock WeightBlock::take(Arena& arena, const MoeConfig& c, int num_ranks) {
  const int64_t experts = checked_local_experts(c, num_ranks), h = c.routed_hidden();
  WeightBlock b;
  b.w1 = arena.take(DType::Bf16, {experts, c.w1_rows(), h});
  b.w2 = arena.take(DType::Bf16, {experts, h, c.intermediate});
  if (c.expert_bias) b.b1 = arena.take(DType::F32, {experts, c.w1_rows()});
  if (c.expert_bias) b.b2 = arena.take(DType::F32, {experts, h});
  take_router(b, arena, c);
  take_shared(b, arena, c);
  take_path(b, arena, c);
  return b;
}

WeightBlock WeightBlock::allocate(const MoeConfig& config, int num_ranks) {
  const auto bytes = static_cast<size_t>(weight_bytes(config, num_ranks));
  const AvailableMemory available = available_memory();
  SWITCHYARD_REQUIRE(bytes <= available.bytes, Unsupported, "weights: bytes=", bytes, ", one of ",
                     num_ranks, " ranks needs ", size_text(bytes), ", ", size_text(available.bytes),
                     " available (", available.of, "). Use more ranks or a smaller layer.");
  std::shared_ptr<void> memory(std::aligned_alloc(Workspace::kAlignment, bytes), std::free);
  SWITCHYARD_REQUIRE(memory != nullptr, Unsupported, "weights: bytes=", bytes,
                     ", cannot be allocated. Use more ranks or a smaller layer.");
  Arena arena({memory.get(), bytes});
  WeightBlock block = take(arena, config, num_ranks);
  block.memory = std::move(memory);
  return block;
}

LayerWeights WeightBlock::view() const {
  LayerWeights w;
  w.experts = {GateUpOrder::GateUp, w1, w2, b1, b2};
  w.router = {router, router_bias, correction_bias, expert_scale, token_experts};
  if (shared_w1.present()) w.shared = {GateUpOrder::GateUp, shared_w1, shared_w2, shared_gate};
  w.path = {input_norm, down, output_norm, up};
  w.owner = memory;
  return w;
}

int64_t weight_bytes(const MoeConfig& config, int num_ranks) {
  Arena arena({});
  WeightBlock::take(arena, config, num_ranks);
  return static_cast<int64_t>(arena.bytes());
}

}  // namespace switchyard
