// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/layer_plan.h -- what a layer is made by, and what of it ranks must share.
#pragma once

#include <string>
#include <vector>

#include "base/require.h"
#include "switchyard/dispatcher.h"
#include "switchyard/executor.h"
#include "switchyard/layer.h"

namespace switchyard {

struct LayerPlan {
  MoeConfig config;         // of the whole layer
  StrategyRequest request;  // its config is that of the routed experts alone, behind a path
  Strategy strategy;        // chosen last
  OutOfRangeIds out_of_range_ids = OutOfRangeIds::Error;
  bool strided_rows = false;
  int num_link_blocks = 0;
  bool host_ordered = false;
  std::vector<int32_t> placement;  // the expert in each slot, as it is now; empty: none
  bool counts_loads = false;

  LayerPlan(const MoeConfig& layer, int num_ranks, const LayerOptions& options);

  // Whether ids are more than the caller's or the gate's: counted, or those of slots.
  bool places_ids() const { return !placement.empty() || counts_loads; }
  // Whether calls can go on without ranks that are lost.
  bool outlives_ranks() const {
    return request.num_ranks > 1 && request.lost_rank_timeout.count() > 0;
  }

  // Expert loads, and dropped routes.
  int64_t num_counters() const {
    return (counts_loads ? config.num_experts : 0) + (outlives_ranks() ? 1 : 0);
  }

  DispatcherOptions dispatcher() const;
  ExecutorOptions executor() const;
};

// What a rank can see of its options alone. Throws Error(ShapeMismatch).
void check_options(const LayerOptions& options);
// That the plan has slots for its placement. Throws Error(ShapeMismatch).
void check_slots(const LayerPlan& plan);
// The same of a rank's weights.
void check_slots(const LayerPlan& plan, const ExpertWeights& weights);

// field(name, value) for everything that must be equal on every rank.
template <class F>
void for_each_shared_field(const Activation& a, F&& field) {
  field("activation", static_cast<int>(a.kind));
  field("activation.alpha", a.alpha);
  field("activation.limit", a.limit);
}

template <class F>
void for_each_shared_field(const GateConfig& g, F&& field) {
  field("gate.scoring", static_cast<int>(g.scoring));
  field("gate.renormalize", g.renormalize);
  field("gate.renormalize_epsilon", g.renormalize_epsilon);
  field("gate.clamp_renormalizer", g.clamp_renormalizer);
  field("gate.scale", g.scale);
  field("gate.correction_bias", g.correction_bias);
  field("gate.num_groups", g.num_groups);
  field("gate.num_groups_kept", g.num_groups_kept);
  field("gate.group_score", static_cast<int>(g.group_score));
  field("gate.jitter_epsilon", g.jitter_epsilon);
  field("gate.logit_softcap", g.logit_softcap);
  field("gate.vocabulary", g.vocabulary);
  field("gate.num_zero_experts", g.num_zero_experts);
  field("gate.expert_scale", g.expert_scale);
  field("gate.rms_of_hidden", g.rms_of_hidden);
}

template <class F>
void for_each_shared_field(const MoeConfig& c, F&& field) {
  field("hidden", c.hidden);
  field("intermediate", c.intermediate);
  field("num_experts", c.num_experts);
  field("top_k", c.top_k);
  for_each_shared_field(c.activation, field);
  for_each_shared_field(c.gate, field);
  field("shared.intermediate", c.shared.intermediate);
  field("shared.sigmoid_gated", c.shared.sigmoid_gated);
  field("shared.num_scored", c.shared.num_scored);
  for_each_shared_field(c.shared_activation(), field);
  field("expert_bias", c.expert_bias);
  field("router_bias", c.router_bias);
  field("router_f32", c.router_f32);
  field("f32_sums", c.f32_sums);
  field("path.input_norm", c.path.input_norm);
  field("path.latent", c.path.latent);
  field("path.output_norm", c.path.output_norm);
  field("path.norm_epsilon", c.path.norm_epsilon);
  field("router_weight_on_input", c.router_weight_on_input);
  field("ids_are_given", c.ids_are_given);
}

template <class F>
void for_each_shared_field(const PlanOptions& o, F&& field) {
  field("max_tokens", o.max_tokens);
  field("strategy", o.strategy);
  field("masked_max_tokens", o.masked_max_tokens);
  field("alignment", o.alignment);
  field("allow_repeated_experts", o.allow_repeated_experts);
  field("tp_size", o.tp_size);
  field("use_all_gather", o.use_all_gather);
  field("workspace_limit_bytes", o.workspace_limit_bytes);
  field("token_pieces", o.token_pieces);
  field("fetch_rows", o.fetch_rows);
  field("sums_at_source", o.sums_at_source);
  field("host_counts", o.host_counts);
  field("peer_memory", o.peer_memory);
  field("experts", static_cast<int>(o.experts));
  field("fp8_rows", o.fp8_rows);
  field("lost_rank_timeout", o.lost_rank_timeout.count());
  field("gemm1", o.gemm1);
  field("gemm2", o.gemm2);
}

template <class F>
void for_each_shared_field(const LayerPlan& p, F&& field) {
  for_each_shared_field(p.config, field);
  for_each_shared_field(static_cast<const PlanOptions&>(p.request), field);
  field("device", device_name(p.request.device.kind));
  field("out_of_range_ids", static_cast<int>(p.out_of_range_ids));
  field("strided_rows", p.strided_rows);
  field("host_ordered", p.host_ordered);
  std::string slots;
  for (const int32_t expert : p.placement) slots += cat(expert, ' ');
  field("placement", slots);
}

}  // namespace switchyard
