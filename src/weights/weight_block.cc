// src/weights/weight_block.cc
#include "weights/weight_block.h"

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string>

#include "base/require.h"

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

// sqrt(3 / fan_in): a uniform value of that range has variance 1 / fan_in, which keeps the size of
// what is multiplied.
RandomValues for_fan_in(int64_t fan_in, int number) {
  return {number, std::sqrt(3.0f / static_cast<float>(fan_in))};
}

}  // namespace

std::vector<WeightPart> weight_parts(const MoeConfig& c, int num_ranks) {
  validate(c);
  SWITCHYARD_REQUIRE(num_ranks >= 1, ShapeMismatch, "weights: ranks=", num_ranks,
                     ", need at least 1.");
  std::vector<WeightPart> parts;
  const auto parts_in = [&](WeightPart::Group group, auto weights) {
    return [&parts, group, weights](const char* name, Tensor WeightBlock::*tensor, auto view,
                                    bool wanted, DType dtype, Shape shape, RandomValues random) {
      const auto view_in = [=](const LayerWeights& w) { return w.*weights.*view; };
      parts.push_back({group, name, tensor, view_in, wanted, dtype, shape, random});
    };
  };
  using Block = WeightBlock;
  constexpr DType kBf16 = DType::Bf16, kF32 = DType::F32;
  const int64_t n = experts_of_rank(c.num_experts, num_ranks), rows = c.router_rows();
  const int64_t h = c.hidden, i = c.intermediate, is = c.shared.intermediate, l = c.path.latent;
  const int64_t routed_h = c.routed_hidden();

  using E = ExpertWeights;
  const auto expert = parts_in(WeightPart::Group::Experts, &LayerWeights::experts);
  expert("w1", &Block::w1, &E::w1, true, kBf16, {n, c.w1_rows(), routed_h},
         for_fan_in(routed_h, 1));
  expert("w2", &Block::w2, &E::w2, true, kBf16, {n, routed_h, i}, for_fan_in(i, 2));
  expert("b1", &Block::b1, &E::b1, c.expert_bias, kF32, {n, c.w1_rows()}, {3, 0.5f});
  expert("b2", &Block::b2, &E::b2, c.expert_bias, kF32, {n, routed_h}, {4, 0.5f});

  using R = RouterWeights;
  const auto router = parts_in(WeightPart::Group::Router, &LayerWeights::router);
  router("router", &Block::router, &R::weight, true, c.router_f32 ? kF32 : kBf16, {rows, h},
         for_fan_in(h, 1));
  router("router bias", &Block::router_bias, &R::bias, c.router_bias, kF32, {rows}, {2, 0.5f});
  router("correction bias", &Block::correction_bias, &R::correction_bias, c.gate.correction_bias,
         kF32, {c.num_choices()}, {3, 0.1f});
  router("expert scale", &Block::expert_scale, &R::expert_scale, c.gate.expert_scale, kF32, {rows},
         {7, 0.5f, 1.0f});
  router("token experts", &Block::token_experts, &R::token_experts, c.gate.vocabulary > 0,
         DType::I32, {c.gate.vocabulary, c.top_k}, {8});

  using S = SharedExpertWeights;
  const auto shared = parts_in(WeightPart::Group::Shared, &LayerWeights::shared);
  shared("shared w1", &Block::shared_w1, &S::w1, is > 0, kBf16, {c.shared_w1_rows(), h},
         for_fan_in(h, 4));
  shared("shared w2", &Block::shared_w2, &S::w2, is > 0, kBf16, {h, is}, for_fan_in(is, 5));
  shared("shared gate", &Block::shared_gate, &S::gate, c.shared.sigmoid_gated, kBf16, {1, h},
         for_fan_in(h, 6));

  using P = RoutedPathWeights;
  const auto path = parts_in(WeightPart::Group::Path, &LayerWeights::path);
  path("input norm", &Block::input_norm, &P::input_norm, c.path.input_norm, kF32, {h},
       {9, 0.5f, 1.0f});
  path("down", &Block::down, &P::down, l > 0, kBf16, {l, h}, for_fan_in(h, 10));
  path("output norm", &Block::output_norm, &P::output_norm, c.path.output_norm, kF32, {routed_h},
       {11, 0.5f, 1.0f});
  path("up", &Block::up, &P::up, l > 0, kBf16, {h, l}, for_fan_in(l, 12));
  return parts;
}

WeightBlock WeightBlock::take(Arena& arena, const MoeConfig& config, int num_ranks) {
  WeightBlock b;
  for (const WeightPart& part : weight_parts(config, num_ranks))
    if (part.wanted) b.*part.tensor = arena.take(part.dtype, part.shape);
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
