// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/weights.cc -- weights: the caller's, copied, of a checkpoint, random.
#include "switchyard/weights.h"

#include "c_api/config.h"
#include "c_api/handles.h"
#include "c_api/lent.h"
#include "c_api/tensor.h"
#include "c_api/versioned.h"

namespace switchyard::c_api {
namespace {

static_assert(SWY_ORDER_UNSET == int(GateUpOrder::Unset) &&
              SWY_GATE_UP == int(GateUpOrder::GateUp) && SWY_UP_GATE == int(GateUpOrder::UpGate) &&
              SWY_INTERLEAVED == int(GateUpOrder::Interleaved));

swy_weight_views no_views() {
  swy_weight_views views{};
  views.size = sizeof views;
  return views;
}

// Every tensor of `weights` with its own of `views`.
template <class Weights, class Views, class F>
void for_each_tensor(Weights& weights, Views& views, F&& f) {
  f("w1", weights.experts.w1, views.w1);
  f("w2", weights.experts.w2, views.w2);
  f("b1", weights.experts.b1, views.b1);
  f("b2", weights.experts.b2, views.b2);
  f("router", weights.router.weight, views.router);
  f("router_bias", weights.router.bias, views.router_bias);
  f("correction_bias", weights.router.correction_bias, views.correction_bias);
  f("expert_scale", weights.router.expert_scale, views.expert_scale);
  f("token_experts", weights.router.token_experts, views.token_experts);
  f("shared_w1", weights.shared.w1, views.shared_w1);
  f("shared_w2", weights.shared.w2, views.shared_w2);
  f("shared_gate", weights.shared.gate, views.shared_gate);
  f("path_input_norm", weights.path.input_norm, views.path_input_norm);
  f("path_down", weights.path.down, views.path_down);
  f("path_output_norm", weights.path.output_norm, views.path_output_norm);
  f("path_up", weights.path.up, views.path_up);
  f("w1_scales", weights.experts.w1_scales.values, views.w1_scales);
  f("w2_scales", weights.experts.w2_scales.values, views.w2_scales);
}

// A size of a block: 0 is all.
int64_t to_extent(const char* op, const char* name, int64_t value) {
  SWITCHYARD_C_REQUIRE(value >= 0, op, ": ", name, "=", value,
                       ", must not be negative. Pass 0 for all.");
  return value == 0 ? ScaleBlock::kWhole : value;
}
int64_t from_extent(int64_t value) {
  return value == ScaleBlock::kWhole ? 0 : value;
}

GateUpOrder order_of(const char* op, const char* name, int32_t value) {
  return enumerator<GateUpOrder>(op, name, value, SWY_INTERLEAVED + 1);
}

LayerWeights to_weights(const char* op, const char* name, const swy_weight_views* given) {
  const auto views = read(op, name, given, no_views());
  LayerWeights weights;
  weights.experts.order = order_of(op, "order", views.order);
  weights.shared.order = order_of(op, "shared_order", views.shared_order);
  weights.experts.transposed = flag(op, "transposed", views.transposed);
  weights.experts.num_slots = views.num_slots;
  check_reserved(op, "reserved", static_cast<uint32_t>(views.reserved));
  for_each_tensor(weights, views, [&](const char* tensor, ConstTensor& to, const swy_tensor& from) {
    to = dense(op, tensor, from);
  });
  if (weights.experts.w1_scales.present())
    weights.experts.w1_scales.block = {to_extent(op, "w1_block_rows", views.w1_block_rows),
                                       to_extent(op, "w1_block_cols", views.w1_block_cols)};
  if (weights.experts.w2_scales.present())
    weights.experts.w2_scales.block = {to_extent(op, "w2_block_rows", views.w2_block_rows),
                                       to_extent(op, "w2_block_cols", views.w2_block_cols)};
  return weights;
}

void check_ranks(const char* op, int32_t num_ranks) {
  check_range(op, "num_ranks", num_ranks, 1, kMostRanks);
}

// In memory of the context's device, with what keeps that.
std::unique_ptr<swy_weights> placed(const LayerWeights& host, const MoeConfig& config,
                                    int num_ranks, const swy_context& context) {
  auto weights = std::make_unique<swy_weights>();
  weights->weights = context.device == DeviceKind::Cpu
                         ? host
                         : to_device(host, config, num_ranks, *context.backend);
  return weights;
}

std::unique_ptr<swy_weights> loaded(const char* op, swy_context* context,
                                    const swy_checkpoint* checkpoint, int64_t layer,
                                    int32_t num_ranks, int32_t rank, WeightForms forms) {
  const swy_context& of = handle(op, "context", context);
  const auto& files = *handle(op, "checkpoint", checkpoint).checkpoint;
  check_ranks(op, num_ranks);
  return placed(files.load_layer(layer, num_ranks, rank, {}, forms), files.config(layer), num_ranks,
                of);
}

}  // namespace
}  // namespace switchyard::c_api

extern "C" {

swy_status swy_weight_views_init(swy_weight_views* views, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_weight_views_init", views, size, no_views());
}

swy_status swy_weights_create(const swy_weight_views* views, void (*release)(void* owner),
                              void* owner, swy_weights** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_create";
    required(kOp, "out", out);
    auto weights = std::make_unique<swy_weights>();
    weights->weights = to_weights(kOp, "views", views);
    auto lent = std::make_shared<Lent>();
    weights->weights.owner = lent;
    lent->own(release, owner);
    *out = weights.release();
  });
}

swy_status swy_weights_create_copy(swy_context* context, const swy_config* config,
                                   int32_t num_ranks, const swy_weight_views* host,
                                   swy_weights** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_create_copy";
    const swy_context& of = handle(kOp, "context", context);
    required(kOp, "out", out);
    check_ranks(kOp, num_ranks);
    const switchyard::MoeConfig layer = to_config(kOp, config);
    validate(layer);
    auto weights = std::make_unique<swy_weights>();
    weights->weights = to_device(to_weights(kOp, "host", host), layer, num_ranks, *of.backend);
    *out = weights.release();
  });
}

swy_status swy_weights_create_from_checkpoint(swy_context* context,
                                              const swy_checkpoint* checkpoint, int64_t layer,
                                              int32_t num_ranks, int32_t rank, swy_weights** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_create_from_checkpoint";
    required(kOp, "out", out);
    *out = loaded(kOp, context, checkpoint, layer, num_ranks, rank, switchyard::WeightForms::Bf16)
               .release();
  });
}

swy_status swy_weights_create_native(swy_context* context, const swy_checkpoint* checkpoint,
                                     int64_t layer, int32_t num_ranks, int32_t rank,
                                     swy_weights** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_create_native";
    required(kOp, "out", out);
    *out = loaded(kOp, context, checkpoint, layer, num_ranks, rank, switchyard::WeightForms::Native)
               .release();
  });
}

swy_status swy_weights_create_random(swy_context* context, const swy_config* config,
                                     int32_t num_ranks, int32_t rank, uint64_t seed,
                                     swy_weights** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_create_random";
    const swy_context& of = handle(kOp, "context", context);
    required(kOp, "out", out);
    check_ranks(kOp, num_ranks);
    check_range(kOp, "rank", rank, 0, num_ranks - 1);
    const switchyard::MoeConfig layer = to_config(kOp, config);
    validate(layer);
    *out = placed(switchyard::random_weights(layer, num_ranks, rank, seed), layer, num_ranks, of)
               .release();
  });
}

swy_status swy_weights_create_arranged(swy_context* context, const swy_config* config,
                                       int32_t num_ranks, const swy_weights* weights,
                                       swy_weights** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_create_arranged";
    const swy_context& of = handle(kOp, "context", context);
    const switchyard::MoeConfig layer = to_config(kOp, config);
    const switchyard::LayerWeights& given = handle(kOp, "weights", weights).weights;
    required(kOp, "out", out);
    check_ranks(kOp, num_ranks);
    validate(layer);
    auto arranged = std::make_unique<swy_weights>();
    arranged->weights = switchyard::arrange_weights(given, layer, num_ranks, *of.backend);
    *out = arranged.release();
  });
}

swy_status swy_weights_arranged_bytes(const swy_weights* weights, int64_t* bytes) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_arranged_bytes";
    const switchyard::LayerWeights& of = handle(kOp, "weights", weights).weights;
    required(kOp, "bytes", bytes) = switchyard::arranged_bytes(of.experts);
  });
}

swy_status swy_weights_view(const swy_weights* weights, swy_weight_views* views) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_weights_view";
    const switchyard::LayerWeights& of = handle(kOp, "weights", weights).weights;
    check_output(kOp, "views", views);
    auto result = no_views();
    result.order = static_cast<int32_t>(of.experts.order);
    result.shared_order = static_cast<int32_t>(of.shared.order);
    result.transposed = of.experts.transposed;
    result.num_slots = of.experts.num_slots;
    for_each_tensor(of, result,
                    [](const char*, const switchyard::ConstTensor& from, swy_tensor& to) {
                      to = from_view(from);
                    });
    if (of.experts.w1_scales.present()) {
      const auto &w1 = of.experts.w1_scales.block, &w2 = of.experts.w2_scales.block;
      result.w1_block_rows = from_extent(w1.rows), result.w1_block_cols = from_extent(w1.cols);
      result.w2_block_rows = from_extent(w2.rows), result.w2_block_cols = from_extent(w2.cols);
    }
    write(*views, result, views->size);
  });
}

void swy_weights_destroy(swy_weights* weights) {
  switchyard::c_api::destroy(weights);
}

}  // extern "C"
