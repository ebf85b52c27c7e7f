// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/layer_plan.cc
#include "layer/layer_plan.h"

#include <array>

#include "base/enumerator.h"
#include "layer/slot_table.h"

namespace switchyard {
namespace {

// The routed experts alone, as dispatcher and executor see them: behind a path, and in slots. They
// know no groups of experts.
MoeConfig routed_config(const MoeConfig& config, size_t num_slots) {
  MoeConfig c = config;
  if (num_slots > 0) {
    c.num_experts = static_cast<int64_t>(num_slots);
    c.gate.num_groups = c.gate.num_groups_kept = 1;
  }
  if (!config.path.present()) return c;
  c.hidden = config.routed_hidden();
  c.path = {};
  c.shared = {};
  c.f32_sums = config.path.output_norm;
  return c;
}

}  // namespace

LayerPlan::LayerPlan(const MoeConfig& layer, int num_ranks, const LayerOptions& options)
    : config(layer),
      out_of_range_ids(options.out_of_range_ids),
      strided_rows(options.strided_rows),
      num_link_blocks(options.num_link_blocks),
      host_ordered(options.host_ordered),
      placement(options.placement),
      counts_loads(options.count_loads) {
  static_cast<PlanOptions&>(request) = options;
  request.config = routed_config(layer, placement.size());
  request.num_ranks = num_ranks;
  request.has_nccl = has_nccl();
  request.device = describe_device(options.device);
}

void check_options(const LayerOptions& options) {
  const auto check_not_negative = [](const char* name, int64_t value) {
    SWITCHYARD_REQUIRE(value >= 0, ShapeMismatch, "create: ", name, "=", value,
                       ", must not be negative. Pass 0 for the default.");
  };
  check_not_negative("num_threads", options.num_threads);
  check_not_negative("num_link_blocks", options.num_link_blocks);
  check_not_negative("num_sms", options.num_sms);
  check_not_negative("token_pieces", options.token_pieces);
  constexpr std::chrono::milliseconds kYear = std::chrono::hours(24 * 365);
  const std::chrono::milliseconds timeout = options.lost_rank_timeout;
  SWITCHYARD_REQUIRE(timeout.count() >= 0 && timeout <= kYear, ShapeMismatch,
                     "create: lost_rank_timeout=", timeout.count(),
                     " ms, need 0 to a year. Pass 0 for ranks that are not to be outlived.");
  SWITCHYARD_REQUIRE(timeout.count() == 0 || !options.host_ordered, Unsupported,
                     "create: lost_rank_timeout=", timeout.count(),
                     " ms with host_ordered, in which hosts wait for all ranks. Use one of them.");
  require_enumerator("create", "device", options.device,
                     std::array{DeviceKind::Cpu, DeviceKind::Cuda}, "DeviceKind");
  require_enumerator("create", "out_of_range_ids", options.out_of_range_ids,
                     std::array{OutOfRangeIds::Error, OutOfRangeIds::NoExpert}, "OutOfRangeIds");
}

void check_slots(const LayerPlan& plan) {
  if (plan.placement.empty()) return;
  check_slot_count("create", static_cast<int64_t>(plan.placement.size()), plan.request.num_ranks);
  check_placement("create", plan.placement, plan.config.num_experts);
}

void check_slots(const LayerPlan& plan, const ExpertWeights& weights) {
  const auto num_slots = static_cast<int64_t>(plan.placement.size()) / plan.request.num_ranks;
  SWITCHYARD_REQUIRE(weights.num_slots == num_slots, ShapeMismatch,
                     "create: weights have num_slots=", weights.num_slots, ", the placement ",
                     num_slots, " on a rank. Pass the weights of this rank's slots.");
}

DispatcherOptions LayerPlan::dispatcher() const {
  DispatcherOptions o;
  o.kind = strategy.dispatcher;
  o.tp_size = request.tp_size;
  o.num_link_blocks = num_link_blocks;
  o.rows = strategy.rows;
  o.fetch_rows = strategy.fetch_rows;
  o.sums_at_source = request.sums_at_source;
  o.host_ordered = host_ordered;
  if (request.device.kind == DeviceKind::Cuda || outlives_ranks())
    o.peer_memory = request.peer_memory;
  if (outlives_ranks()) o.lost_rank_timeout = request.lost_rank_timeout;
  o.host_counts = request.host_counts;
  return o;
}

ExecutorOptions LayerPlan::executor() const {
  ExecutorOptions o;
  o.kind = strategy.executor;
  o.alignment = request.alignment;
  o.masked_max_tokens = request.masked_max_tokens;
  o.allow_repeated_experts = request.allow_repeated_experts;
  o.provider = strategy.provider;
  o.host_counts = request.host_counts;
  o.gemm1 = request.gemm1;
  o.gemm2 = request.gemm2;
  return o;
}

}  // namespace switchyard
