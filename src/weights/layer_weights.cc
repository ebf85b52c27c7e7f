// src/weights/layer_weights.cc -- the rules that weights obey, and random ones that obey them.
#include <algorithm>
#include <thread>
#include <vector>

#include "base/random.h"
#include "base/shape_text.h"
#include "switchyard/weights.h"
#include "weights/random_tensors.h"

namespace switchyard {
namespace {

void check_tensor(const char* name, ConstTensor t, DType dtype, Shape shape, DeviceKind device) {
  SWITCHYARD_REQUIRE(
      t.shape == shape && t.dtype == dtype, ShapeMismatch, "weights: ", name, " is ",
      t.present() ? cat(dtype_name(t.dtype), " ", shape_text(t.shape)) : std::string("missing"),
      ", need ", dtype_name(dtype), " ", shape_text(shape), ". Check config and weights.");
  SWITCHYARD_REQUIRE(t.data != nullptr || t.count() == 0, ShapeMismatch, "weights: ", name,
                     " is null.");
  SWITCHYARD_REQUIRE(reinterpret_cast<uintptr_t>(t.data) % 16 == 0, Misaligned, "weights: ", name,
                     " address is not a multiple of 16. Align it.");
  SWITCHYARD_REQUIRE(
      t.device == device, ShapeMismatch, "weights: ", name, " is on ", device_name(t.device),
      ", need ", device_name(device),
      device == DeviceKind::Cuda ? ". Copy them with to_device." : ". Pass the ones on the host.");
}

void check_optional(const char* name, ConstTensor t, bool wanted, DType dtype, Shape shape,
                    DeviceKind device) {
  if (wanted) return check_tensor(name, t, dtype, shape, device);
  SWITCHYARD_REQUIRE(!t.present(), ShapeMismatch, "weights: ", name,
                     " is given, the config has none. Make config and weights agree.");
}

void check_order(const char* name, GateUpOrder order, const Activation& activation) {
  SWITCHYARD_REQUIRE(!activation.gated() || order != GateUpOrder::Unset, ShapeMismatch,
                     "weights: ", name,
                     " order is unset, need GateUp or UpGate. Say which half of w1 comes first.");
}

void fill(Tensor t, uint64_t stream, float range, float middle) {
  const int64_t count = t.count();
  for (int64_t i = 0; i < count; ++i) {
    const float value = middle + uniform_at(stream, static_cast<uint64_t>(i), range);
    if (t.dtype == DType::F32)
      t.as<float>()[i] = value;
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

void check_router(const RouterWeights& w, const MoeConfig& c, DeviceKind device) {
  const Shape rows{c.router_rows()};
  check_tensor("router", w.weight, c.router_f32 ? DType::F32 : DType::Bf16,
               {c.router_rows(), c.hidden}, device);
  check_optional("router bias", w.bias, c.router_bias, DType::F32, rows, device);
  check_optional("correction bias", w.correction_bias, c.gate.correction_bias, DType::F32,
                 {c.num_choices()}, device);
  check_optional("expert scale", w.expert_scale, c.gate.expert_scale, DType::F32, rows, device);
  check_optional("token experts", w.token_experts, c.gate.vocabulary > 0, DType::I32,
                 {c.gate.vocabulary, c.top_k}, device);
}

void check_shared(const SharedExpertWeights& w, const MoeConfig& c, DeviceKind device) {
  const int64_t is = c.shared.intermediate;
  check_optional("shared w1", w.w1, is > 0, DType::Bf16, {c.shared_w1_rows(), c.hidden}, device);
  check_optional("shared w2", w.w2, is > 0, DType::Bf16, {c.hidden, is}, device);
  check_optional("shared gate", w.gate, c.shared.sigmoid_gated, DType::Bf16, {1, c.hidden}, device);
  if (is > 0) check_order("shared w1", w.order, c.shared_activation());
}

void check_path(const RoutedPathWeights& w, const MoeConfig& c, DeviceKind device) {
  const RoutedPathConfig& p = c.path;
  check_optional("input norm", w.input_norm, p.input_norm, DType::F32, {c.hidden}, device);
  check_optional("down", w.down, p.latent > 0, DType::Bf16, {p.latent, c.hidden}, device);
  check_optional("output norm", w.output_norm, p.output_norm, DType::F32, {c.routed_hidden()},
                 device);
  check_optional("up", w.up, p.latent > 0, DType::Bf16, {c.hidden, p.latent}, device);
}

}  // namespace

void validate(const ExpertWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  validate(c);
  SWITCHYARD_REQUIRE(num_ranks >= 1, ShapeMismatch, "weights: P=", num_ranks, ", need at least 1.");
  const int64_t experts = experts_of_rank(c.num_experts, num_ranks);
  check_order("w1", w.order, c.activation);
  const int64_t h = c.routed_hidden();
  check_tensor("w1", w.w1, DType::Bf16, {experts, c.w1_rows(), h}, device);
  check_tensor("w2", w.w2, DType::Bf16, {experts, h, c.intermediate}, device);
  check_optional("b1", w.b1, c.expert_bias, DType::F32, {experts, c.w1_rows()}, device);
  check_optional("b2", w.b2, c.expert_bias, DType::F32, {experts, h}, device);
}

void validate(const LayerWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  validate(w.experts, c, num_ranks, device);
  if (w.router.weight.present()) check_router(w.router, c, device);
  check_shared(w.shared, c, device);
  check_path(w.path, c, device);
}

LayerWeights random_weights(const MoeConfig& config, int num_ranks, int rank, uint64_t seed) {
  const auto block = WeightBlock::allocate(config, num_ranks);
  const auto tensors = random_tensors(block, config);
  const int64_t experts = experts_of_rank(config.num_experts, num_ranks);
  const int64_t num_threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, experts);
  {
    std::vector<std::jthread> threads;
    for (int64_t t = 0; t < num_threads; ++t)
      threads.emplace_back([&, t] {
        for (int64_t e = t; e < experts; e += num_threads)
          for (const auto& r : tensors)
            if (r.by_expert)
              fill(r.tensor.rows(e, 1), random_stream(seed, rank * experts + e, r.number), r.range,
                   r.middle);
      });
  }
  for (const auto& r : tensors) {
    const uint64_t stream = random_stream(seed, -1, r.number);
    if (r.tensor.dtype == DType::I32)
      fill_table(r.tensor, stream, config.num_experts);
    else if (!r.by_expert)
      fill(r.tensor, stream, r.range, r.middle);
  }
  return block.view();
}

}  // namespace switchyard
