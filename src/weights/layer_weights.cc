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

void fill(Tensor t, uint64_t stream, float range) {
  const int64_t count = t.count();
  for (int64_t i = 0; i < count; ++i) {
    const float value = uniform_at(stream, static_cast<uint64_t>(i), range);
    if (t.dtype == DType::F32)
      t.as<float>()[i] = value;
    else
      t.as<Bf16>()[i] = Bf16(value);
  }
}

}  // namespace

void validate(const ExpertWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  validate(c);
  SWITCHYARD_REQUIRE(num_ranks >= 1 && c.num_experts % num_ranks == 0, ShapeMismatch,
                     "weights: E=", c.num_experts, ", P=", num_ranks,
                     ", experts must split evenly over the ranks.");
  const int64_t experts = c.num_experts / num_ranks;
  check_order("w1", w.order, c.activation);
  check_tensor("w1", w.w1, DType::Bf16, {experts, c.w1_rows(), c.hidden}, device);
  check_tensor("w2", w.w2, DType::Bf16, {experts, c.hidden, c.intermediate}, device);
  check_optional("b1", w.b1, c.expert_bias, DType::F32, {experts, c.w1_rows()}, device);
  check_optional("b2", w.b2, c.expert_bias, DType::F32, {experts, c.hidden}, device);
}

void validate(const LayerWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  validate(w.experts, c, num_ranks, device);
  const Shape one_each{c.num_experts};
  if (w.router.weight.present()) {
    check_tensor("router", w.router.weight, DType::Bf16, {c.num_experts, c.hidden}, device);
    check_optional("router bias", w.router.bias, c.router_bias, DType::F32, one_each, device);
    check_optional("correction bias", w.router.correction_bias, c.gate.correction_bias, DType::F32,
                   one_each, device);
  }
  const int64_t is = c.shared.intermediate;
  check_optional("shared w1", w.shared.w1, is > 0, DType::Bf16,
                 {c.activation.gated() ? 2 * is : is, c.hidden}, device);
  check_optional("shared w2", w.shared.w2, is > 0, DType::Bf16, {c.hidden, is}, device);
  check_optional("shared gate", w.shared.gate, c.shared.sigmoid_gated, DType::Bf16, {1, c.hidden},
                 device);
  if (is > 0) check_order("shared w1", w.shared.order, c.activation);
}

LayerWeights random_weights(const MoeConfig& config, int num_ranks, int rank, uint64_t seed) {
  const auto block = WeightBlock::allocate(config, num_ranks);
  const auto tensors = random_tensors(block, config);
  const int64_t experts = config.num_experts / num_ranks;
  const int64_t num_threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, experts);
  {
    std::vector<std::jthread> threads;
    for (int64_t t = 0; t < num_threads; ++t)
      threads.emplace_back([&, t] {
        for (int64_t e = t; e < experts; e += num_threads)
          for (const auto& r : tensors)
            if (r.by_expert)
              fill(r.tensor.rows(e, 1), random_stream(seed, rank * experts + e, r.number), r.range);
      });
  }
  for (const auto& r : tensors)
    if (!r.by_expert) fill(r.tensor, random_stream(seed, -1, r.number), r.range);
  return block.view();
}

}  // namespace switchyard
