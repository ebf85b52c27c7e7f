// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/weight_block.cc -- one rank's weights in one block of memory, the rules that they obey,
// and random ones that obey them.
#include "weights/weight_block.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/as_error.h"
#include "base/random.h"
#include "base/shape_text.h"

namespace switchyard {
namespace {

// ---- one block of memory

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

// The same as codes of the whole range times scales, from half to one and a half of what makes them
// that wide.
RandomValues codes_for(const RandomValues& values) {
  return {values.number, F8E4m3::kMax};
}
RandomValues scales_for(const RandomValues& values, int number) {
  const float middle = values.range / F8E4m3::kMax;
  return {number, middle / 2, middle};
}

// ---- rules and random values

// What an engine hands over may have other layouts and dtypes than a block (see is_arranged).
void allow_other_layouts(WeightPart& part, const ExpertWeights& w) {
  const bool is_bias = part.tensor == &WeightBlock::b1 || part.tensor == &WeightBlock::b2;
  const ConstTensor given = part.tensor == &WeightBlock::b1 ? w.b1 : w.b2;
  if (is_bias && given.dtype == DType::Bf16) part.dtype = DType::Bf16;
  const Shape s = part.shape;
  if (!is_bias && w.transposed) part.shape = {s[0], s[2], s[1]};
}

void check_part(const WeightPart& part, ConstTensor t, DeviceKind device) {
  SWITCHYARD_REQUIRE(part.wanted || !t.present(), ShapeMismatch, "weights: ", part.name,
                     " is given, the config has none. Make config and weights agree.");
  if (!part.wanted) return;
  SWITCHYARD_REQUIRE(
      t.shape == part.shape && t.dtype == part.dtype, ShapeMismatch, "weights: ", part.name, " is ",
      t.present() ? cat(dtype_name(t.dtype), " ", shape_text(t.shape)) : std::string("missing"),
      ", need ", dtype_name(part.dtype), " ", shape_text(part.shape),
      ". Check config and weights.");
  SWITCHYARD_REQUIRE(t.data != nullptr || t.count() == 0, ShapeMismatch, "weights: ", part.name,
                     " is null.");
  SWITCHYARD_REQUIRE(reinterpret_cast<uintptr_t>(t.data) % 16 == 0, Misaligned,
                     "weights: ", part.name, " address is not a multiple of 16. Align it.");
  SWITCHYARD_REQUIRE(
      t.device == device, ShapeMismatch, "weights: ", part.name, " is on ", device_name(t.device),
      ", need ", device_name(device),
      device == DeviceKind::Cuda ? ". Copy them with to_device." : ". Pass the ones on the host.");
}

void check_group(WeightPart::Group group, const LayerWeights& w, const MoeConfig& c, int num_ranks,
                 DeviceKind device) {
  for (WeightPart& part : weight_parts(c, num_ranks, format_of(w.experts))) {
    if (part.group != group) continue;
    if (group == WeightPart::Group::Experts) allow_other_layouts(part, w.experts);
    check_part(part, part.view(w), device);
  }
}

void check_order(const char* name, GateUpOrder order, const Activation& activation) {
  SWITCHYARD_REQUIRE(order >= GateUpOrder::Unset && order <= GateUpOrder::Interleaved,
                     ShapeMismatch, "weights: ", name, " order=", static_cast<int>(order),
                     ", is no GateUpOrder. Pass one of its values.");
  SWITCHYARD_REQUIRE(!activation.gated() || order != GateUpOrder::Unset, ShapeMismatch,
                     "weights: ", name,
                     " order is unset, need GateUp, UpGate or Interleaved. Say how gate and up "
                     "stand in w1.");
  SWITCHYARD_REQUIRE(activation.gated() || order != GateUpOrder::Interleaved, ShapeMismatch,
                     "weights: ", name,
                     " order=Interleaved, the activation has no gate. Leave it Unset.");
}

void check_block(const char* name, const ScaleBlock& block) {
  SWITCHYARD_REQUIRE(block.rows >= 1, ShapeMismatch, "weights: ", name,
                     " scales: block.rows=", block.rows,
                     ", must be positive. Pass the rows that share a scale.");
  SWITCHYARD_REQUIRE(
      block.cols == ScaleBlock::kWhole || (block.cols >= 1 && block.cols % kQuantGroup == 0),
      Unsupported, "weights: ", name, " scales: block.cols=", block.cols,
      ", need all columns (kWhole) or a multiple of ", kQuantGroup, ". Load them as bf16.");
}

void check_format(const ExpertWeights& w) {
  const ExpertFormat format = format_of(w);
  if (format.dtype == DType::Bf16) {
    SWITCHYARD_REQUIRE(!w.w1_scales.present() && !w.w2_scales.present(), ShapeMismatch,
                       "weights: w1 is ", dtype_name(w.w1.dtype),
                       " and has scales, those belong to f8_e4m3. Leave them away.");
    return;
  }
  check_block("w1", format.w1);
  check_block("w2", format.w2);
  SWITCHYARD_REQUIRE(!w.transposed && w.order != GateUpOrder::Interleaved, Unsupported,
                     "weights: w1 is f8_e4m3 and ", w.transposed ? "transposed" : "Interleaved",
                     ", only bf16 experts are arranged. Bring its rows into "
                     "the order of the kernels.");
}

void check_shared_order(const LayerWeights& w, const MoeConfig& c) {
  check_order("shared w1", w.shared.order, c.shared_activation());
  SWITCHYARD_REQUIRE(w.shared.order != GateUpOrder::Interleaved, Unsupported,
                     "weights: shared w1 order=Interleaved, only routed experts are arranged. Put "
                     "its gate rows first.");
}

void fill(Tensor t, uint64_t stream, RandomValues random) {
  const int64_t count = t.count();
  for (int64_t i = 0; i < count; ++i) {
    const float value = random.middle + uniform_at(stream, static_cast<uint64_t>(i), random.range);
    if (t.dtype == DType::F32)
      t.as<float>()[i] = value;
    else if (t.dtype == DType::F8E4m3)
      t.as<F8E4m3>()[i] = F8E4m3(value);
    else
      t.as<Bf16>()[i] = Bf16(value);
  }
}

// Rows of K consecutive ids, modulo E, from a random one on.
void fill_table(Tensor t, uint64_t stream, int64_t num_experts) {
  const int64_t top_k = t.dim(1);
  for (int64_t row = 0; row < t.dim(0); ++row) {
    const float first = 0.5f + uniform_at(stream, static_cast<uint64_t>(row), 0.5f);
    const auto id = static_cast<int64_t>(first * static_cast<float>(num_experts));
    for (int64_t k = 0; k < top_k; ++k)
      t.as<int32_t>()[row * top_k + k] = static_cast<int32_t>((id + k) % num_experts);
  }
}

}  // namespace

std::vector<WeightPart> weight_parts(const MoeConfig& c, int num_ranks,
                                     const ExpertFormat& format) {
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
  const int64_t n =
      format.num_slots > 0 ? format.num_slots : experts_of_rank(c.num_experts, num_ranks);
  const int64_t rows = c.router_rows();
  const int64_t h = c.hidden, i = c.intermediate, is = c.shared.intermediate, l = c.path.latent;
  const int64_t routed_h = c.routed_hidden();

  using E = ExpertWeights;
  const auto expert = parts_in(WeightPart::Group::Experts, &LayerWeights::experts);
  const Shape w1{n, c.w1_rows(), routed_h}, w2{n, routed_h, i};
  const RandomValues in_w1 = for_fan_in(routed_h, 1), in_w2 = for_fan_in(i, 2);
  const bool f8 = format.dtype == DType::F8E4m3;
  expert("w1", &Block::w1, &E::w1, true, format.dtype, w1, f8 ? codes_for(in_w1) : in_w1);
  expert("w2", &Block::w2, &E::w2, true, format.dtype, w2, f8 ? codes_for(in_w2) : in_w2);
  const auto scales = [&](const char* name, Tensor WeightBlock::*tensor,
                          BlockScales ExpertWeights::*member, const Shape& shape,
                          const RandomValues& random) {
    if (f8)
      parts.push_back({WeightPart::Group::Experts, name, tensor,
                       [=](const LayerWeights& w) { return (w.experts.*member).values; }, true,
                       kF32, shape, random});
  };
  scales("w1 scales", &Block::w1_scales, &E::w1_scales, scales_shape(w1, format.w1),
         scales_for(in_w1, 13));
  scales("w2 scales", &Block::w2_scales, &E::w2_scales, scales_shape(w2, format.w2),
         scales_for(in_w2, 14));
  expert("b1", &Block::b1, &E::b1, c.expert_bias, kF32, {n, c.w1_rows()}, {3, 0.5f});
  expert("b2", &Block::b2, &E::b2, c.expert_bias, kF32, {n, routed_h}, {4, 0.5f});

  using R = RouterWeights;
  const auto router = parts_in(WeightPart::Group::Router, &LayerWeights::router);
  const bool chooses = !c.ids_are_given;
  router("router", &Block::router, &R::weight, chooses, c.router_f32 ? kF32 : kBf16, {rows, h},
         for_fan_in(h, 1));
  router("router bias", &Block::router_bias, &R::bias, chooses && c.router_bias, kF32, {rows},
         {2, 0.5f});
  router("correction bias", &Block::correction_bias, &R::correction_bias,
         chooses && c.gate.correction_bias, kF32, {c.num_choices()}, {3, 0.1f});
  router("expert scale", &Block::expert_scale, &R::expert_scale, chooses && c.gate.expert_scale,
         kF32, {rows}, {7, 0.5f, 1.0f});
  router("token experts", &Block::token_experts, &R::token_experts,
         chooses && c.gate.vocabulary > 0, DType::I32, {c.gate.vocabulary, c.top_k}, {8});

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

WeightBlock WeightBlock::take(Arena& arena, const MoeConfig& config, int num_ranks,
                              const ExpertFormat& format) {
  WeightBlock b;
  b.format = format;
  for (const WeightPart& part : weight_parts(config, num_ranks, format))
    if (part.wanted) b.*part.tensor = arena.take(part.dtype, part.shape);
  return b;
}

WeightBlock WeightBlock::allocate(const MoeConfig& config, int num_ranks,
                                  const ExpertFormat& format) {
  const auto bytes = static_cast<size_t>(weight_bytes(config, num_ranks, format));
  const AvailableMemory available = available_memory();
  SWITCHYARD_REQUIRE(bytes <= available.bytes, Unsupported, "weights: bytes=", bytes, ", one of ",
                     num_ranks, " ranks needs ", size_text(bytes), ", ", size_text(available.bytes),
                     " available (", available.of, "). Use more ranks or a smaller layer.");
  std::shared_ptr<void> memory(std::aligned_alloc(Workspace::kAlignment, bytes), std::free);
  SWITCHYARD_REQUIRE(memory != nullptr, Unsupported, "weights: bytes=", bytes,
                     ", cannot be allocated. Use more ranks or a smaller layer.");
  Arena arena({memory.get(), bytes});
  WeightBlock block = take(arena, config, num_ranks, format);
  block.memory = std::move(memory);
  return block;
}

LayerWeights WeightBlock::view() const {
  LayerWeights w;
  w.experts = {.order = GateUpOrder::GateUp, .w1 = w1, .w2 = w2, .b1 = b1, .b2 = b2};
  w.experts.num_slots = format.num_slots;
  if (w1_scales.present()) {
    w.experts.w1_scales = {w1_scales, format.w1};
    w.experts.w2_scales = {w2_scales, format.w2};
  }
  w.router = {router, router_bias, correction_bias, expert_scale, token_experts};
  if (shared_w1.present()) w.shared = {GateUpOrder::GateUp, shared_w1, shared_w2, shared_gate};
  w.path = {input_norm, down, output_norm, up};
  w.owner = memory;
  return w;
}

int64_t weight_bytes(const MoeConfig& config, int num_ranks) {
  return weight_bytes(config, num_ranks, {});
}

int64_t weight_bytes(const MoeConfig& config, int num_ranks, const ExpertFormat& format) {
  Arena arena({});
  WeightBlock::take(arena, config, num_ranks, format);
  return static_cast<int64_t>(arena.bytes());
}

ExpertFormat format_of(const ExpertWeights& weights) {
  if (weights.w1.dtype != DType::F8E4m3) return {.num_slots = weights.num_slots};
  return {DType::F8E4m3, weights.w1_scales.block, weights.w2_scales.block, weights.num_slots};
}

ExpertFormat fp8_blocks(const MoeConfig& config) {
  const int64_t rows =
      config.activation.gated() ? std::gcd(kQuantGroup, config.intermediate) : kQuantGroup;
  return {DType::F8E4m3, {rows, kQuantGroup}, {kQuantGroup, kQuantGroup}};
}

void validate(const ExpertWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  validate(c);
  SWITCHYARD_REQUIRE(num_ranks >= 1, ShapeMismatch, "weights: P=", num_ranks, ", need at least 1.");
  SWITCHYARD_REQUIRE(w.num_slots >= 0 && w.num_slots <= kMaxExperts, ShapeMismatch,
                     "weights: num_slots=", w.num_slots, ", need 0 to ", kMaxExperts,
                     ". Pass the weight slots of this rank, or 0 for its experts in order.");
  check_order("w1", w.order, c.activation);
  check_format(w);
  LayerWeights layer;
  layer.experts = w;
  check_group(WeightPart::Group::Experts, layer, c, num_ranks, device);
}

void validate(const LayerWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  using enum WeightPart::Group;
  validate(w.experts, c, num_ranks, device);
  if (w.router.weight.present()) check_group(Router, w, c, num_ranks, device);
  check_group(Shared, w, c, num_ranks, device);
  if (c.shared.intermediate > 0) check_shared_order(w, c);
  check_group(Path, w, c, num_ranks, device);
}

namespace {

LayerWeights draw_weights(const MoeConfig& config, int num_ranks, int rank, uint64_t seed,
                          const ExpertFormat& format) {
  const auto block = WeightBlock::allocate(config, num_ranks, format);
  const int64_t experts = experts_of_rank(config.num_experts, num_ranks);
  auto parts = weight_parts(config, num_ranks, format);
  std::erase_if(parts, [](const WeightPart& part) { return !part.wanted; });
  const int64_t num_threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, experts);
  {
    std::vector<std::jthread> threads;
    for (int64_t t = 0; t < num_threads; ++t)
      threads.emplace_back([&, t] {
        for (int64_t e = t; e < experts; e += num_threads)
          for (const auto& p : parts)
            if (p.by_expert())
              fill((block.*p.tensor).rows(e, 1),
                   random_stream(seed, rank * experts + e, p.random.number), p.random);
      });
  }
  for (const auto& p : parts) {
    const uint64_t stream = random_stream(seed, -1, p.random.number);
    if (p.dtype == DType::I32)
      fill_table(block.*p.tensor, stream, config.num_experts);
    else if (!p.by_expert())
      fill(block.*p.tensor, stream, p.random);
  }
  return block.view();
}

}  // namespace

LayerWeights random_weights(const MoeConfig& config, int num_ranks, int rank, uint64_t seed,
                            const ExpertFormat& format) {
  SWITCHYARD_REQUIRE(rank >= 0 && rank < num_ranks, ShapeMismatch, "random_weights: rank=", rank,
                     " of ", num_ranks, ", need 0 to num_ranks-1.");
  return as_errors("random_weights",
                   [&] { return draw_weights(config, num_ranks, rank, seed, format); });
}

}  // namespace switchyard
