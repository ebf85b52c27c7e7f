// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/c_api/c_layer.h -- what tests of the C API share: handles that end with their scope, and C++ values written
// down once more as C has them.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "switchyard/layer.h"
#include "switchyard/switchyard.h"

namespace switchyard::testing {

template <auto kDestroy>
struct DestroyedBy {
  template <class T>
  void operator()(T* handle) const {
    kDestroy(handle);
  }
};
using CContext = std::unique_ptr<swy_context, DestroyedBy<swy_context_destroy>>;
using CMemory = std::unique_ptr<swy_memory, DestroyedBy<swy_memory_destroy>>;
using CGroup = std::unique_ptr<swy_group, DestroyedBy<swy_group_destroy>>;
using CWeights = std::unique_ptr<swy_weights, DestroyedBy<swy_weights_destroy>>;
using CSharedWorkspace =
    std::unique_ptr<swy_shared_workspace, DestroyedBy<swy_shared_workspace_destroy>>;
using CLayer = std::unique_ptr<swy_layer, DestroyedBy<swy_layer_destroy>>;
using CAttention = std::unique_ptr<swy_attention, DestroyedBy<swy_attention_destroy>>;
using CCheckpoint = std::unique_ptr<swy_checkpoint, DestroyedBy<swy_checkpoint_destroy>>;

inline void good(swy_status status) {
  EXPECT_EQ(status, SWY_OK) << swy_last_error();
}

// The handle that `create` makes.
template <class Handle, class F>
Handle made(F&& create) {
  typename Handle::pointer handle = nullptr;
  good(create(&handle));
  return Handle(handle);
}

inline CContext c_context(int num_threads = 2) {
  swy_context_options options;
  SWY_INIT(context_options, options);
  options.num_threads = num_threads;
  return made<CContext>(
      [&](swy_context** out) { return swy_context_create(SWY_VERSION, &options, out); });
}

inline swy_config c_config(const MoeConfig& from) {
  swy_config c;
  SWY_INIT(config, c);
  c.hidden = from.hidden;
  c.intermediate = from.intermediate;
  c.num_experts = from.num_experts;
  c.top_k = from.top_k;
  c.activation = int(from.activation.kind);
  c.activation_alpha = from.activation.alpha;
  c.activation_limit = from.activation.limit;
  const GateConfig& g = from.gate;
  c.scoring = int(g.scoring);
  c.renormalize = g.renormalize;
  c.renormalize_epsilon = g.renormalize_epsilon;
  c.clamp_renormalizer = g.clamp_renormalizer;
  c.scale = g.scale;
  c.correction_bias = g.correction_bias;
  c.num_groups = g.num_groups;
  c.num_groups_kept = g.num_groups_kept;
  c.group_score = int(g.group_score);
  c.jitter_epsilon = g.jitter_epsilon;
  c.logit_softcap = g.logit_softcap;
  c.vocabulary = g.vocabulary;
  c.num_zero_experts = g.num_zero_experts;
  c.expert_scale = g.expert_scale;
  c.rms_of_hidden = g.rms_of_hidden;
  c.shared_intermediate = from.shared.intermediate;
  c.shared_sigmoid_gated = from.shared.sigmoid_gated;
  c.shared_num_scored = from.shared.num_scored;
  if (from.shared.activation) {
    c.shared_activation = int(from.shared.activation->kind);
    c.shared_activation_alpha = from.shared.activation->alpha;
    c.shared_activation_limit = from.shared.activation->limit;
  }
  c.expert_bias = from.expert_bias;
  c.router_bias = from.router_bias;
  c.router_f32 = from.router_f32;
  c.f32_sums = from.f32_sums;
  c.path_input_norm = from.path.input_norm;
  c.path_latent = from.path.latent;
  c.path_output_norm = from.path.output_norm;
  c.path_norm_epsilon = from.path.norm_epsilon;
  c.router_weight_on_input = from.router_weight_on_input;
  c.ids_are_given = from.ids_are_given;
  return c;
}

inline swy_tensor c_tensor(const ConstTensor& t) {
  const int64_t shape[4] = {t.shape[0], t.shape[1], t.shape[2], t.shape[3]};
  return swy_tensor_of(t.data, int(t.dtype), int(t.device), t.shape.rank(), shape);
}

// Of layers without a path around the experts.
inline swy_weight_views c_views(const LayerWeights& from) {
  swy_weight_views c;
  SWY_INIT(weight_views, c);
  c.order = int(from.experts.order);
  c.shared_order = int(from.shared.order);
  c.w1 = c_tensor(from.experts.w1);
  c.w2 = c_tensor(from.experts.w2);
  c.b1 = c_tensor(from.experts.b1);
  c.b2 = c_tensor(from.experts.b2);
  c.router = c_tensor(from.router.weight);
  c.shared_w1 = c_tensor(from.shared.w1);
  c.shared_w2 = c_tensor(from.shared.w2);
  c.shared_gate = c_tensor(from.shared.gate);
  c.transposed = from.experts.transposed;
  c.num_slots = from.experts.num_slots;
  if (!from.experts.w1_scales.present()) return c;
  c.w1_scales = c_tensor(from.experts.w1_scales.values);
  c.w2_scales = c_tensor(from.experts.w2_scales.values);
  const auto extent = [](int64_t size) { return size == ScaleBlock::kWhole ? 0 : size; };
  c.w1_block_rows = extent(from.experts.w1_scales.block.rows);
  c.w1_block_cols = extent(from.experts.w1_scales.block.cols);
  c.w2_block_rows = extent(from.experts.w2_scales.block.rows);
  c.w2_block_cols = extent(from.experts.w2_scales.block.cols);
  return c;
}

inline swy_forward_args c_args(const ForwardArgs& from) {
  swy_forward_args args;
  SWY_INIT(forward_args, args);
  args.output = c_tensor(from.output);
  args.hidden = c_tensor(from.hidden);
  args.ids = c_tensor(from.ids);
  args.weights = c_tensor(from.weights);
  args.token_ids = c_tensor(from.token_ids);
  args.expert_map = c_tensor(from.expert_map);
  args.max_tokens = from.max_tokens;
  args.workspace = {from.workspace.data, from.workspace.bytes};
  return args;
}

inline swy_options c_options(int64_t max_tokens) {
  swy_options options;
  SWY_INIT(options, options);
  options.max_tokens = max_tokens;
  return options;
}

// Memory that calls of one layer bring along.
struct CWorkspace {
  CWorkspace(swy_context* context, const swy_config& config, const swy_options& options) {
    good(swy_workspace_bytes(context, &config, 1, &options, &lent.bytes));
    const size_t blocks = lent.bytes / Workspace::kAlignment + 1;
    memory.reset(std::aligned_alloc(Workspace::kAlignment, blocks * Workspace::kAlignment));
    lent.data = memory.get();
  }
  std::unique_ptr<void, decltype(&std::free)> memory{nullptr, &std::free};
  swy_workspace lent{};
};

inline CWeights c_random_weights(swy_context* context, const MoeConfig& from, uint64_t seed,
                                 int num_ranks = 1, int rank = 0) {
  const swy_config config = c_config(from);
  return made<CWeights>([&](swy_weights** out) {
    return swy_weights_create_random(context, &config, num_ranks, rank, seed, out);
  });
}

inline CLayer c_layer(swy_context* context, const MoeConfig& from, const swy_weights* weights,
                      const swy_options& options, const swy_group* group = nullptr) {
  const swy_config config = c_config(from);
  return made<CLayer>([&](swy_layer** out) {
    return swy_layer_create(context, &config, weights, group, &options, out);
  });
}

inline void c_forward(swy_layer* layer, const ForwardArgs& from) {
  const swy_forward_args args = c_args(from);
  good(swy_layer_forward(layer, &args, nullptr));
  good(swy_layer_wait(layer, nullptr));
}

}  // namespace switchyard::testing
