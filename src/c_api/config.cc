// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "c_api/config.h"

#include "c_api/handles.h"
#include "c_api/versioned.h"

namespace switchyard::c_api {
namespace {

static_assert(SWY_SILU_GATED == int(ActivationKind::SiluGated) &&
              SWY_GELU_GATED == int(ActivationKind::GeluGated) &&
              SWY_GELU_TANH_GATED == int(ActivationKind::GeluTanhGated) &&
              SWY_CLAMPED_SWIGLU == int(ActivationKind::ClampedSwiglu) &&
              SWY_RELU2 == int(ActivationKind::Relu2) &&
              SWY_SILU_OF_CLAMPED == int(ActivationKind::SiluOfClamped) &&
              SWY_CLAMPED_SILU == int(ActivationKind::ClampedSilu) &&
              SWY_SITU == int(ActivationKind::Situ) &&
              SWY_RELU2_GATED == int(ActivationKind::Relu2Gated) && Activations::kAll.size() == 9);
static_assert(SWY_SOFTMAX == int(Scoring::Softmax) &&
              SWY_SOFTMAX_OF_TOP_K == int(Scoring::SoftmaxOfTopK) &&
              SWY_SIGMOID == int(Scoring::Sigmoid) &&
              SWY_SPARSE_MIXER == int(Scoring::SparseMixer) &&
              SWY_SQRT_SOFTPLUS == int(Scoring::SqrtSoftplus));
static_assert(SWY_IDS_ERROR == int(OutOfRangeIds::Error) &&
              SWY_IDS_NO_EXPERT == int(OutOfRangeIds::NoExpert));
static_assert(SWY_GROUP_MAX == int(GroupScore::Max) &&
              SWY_GROUP_TOP2_SUM == int(GroupScore::Top2Sum));

void set_gate(swy_config& c, const GateConfig& g) {
  c.scoring = static_cast<int32_t>(g.scoring);
  c.renormalize = g.renormalize;
  c.clamp_renormalizer = g.clamp_renormalizer;
  c.renormalize_epsilon = g.renormalize_epsilon;
  c.scale = g.scale;
  c.num_groups = g.num_groups;
  c.num_groups_kept = g.num_groups_kept;
  c.group_score = static_cast<int32_t>(g.group_score);
  c.correction_bias = g.correction_bias;
  c.jitter_epsilon = g.jitter_epsilon;
  c.logit_softcap = g.logit_softcap;
  c.vocabulary = g.vocabulary;
  c.num_zero_experts = g.num_zero_experts;
  c.expert_scale = g.expert_scale;
  c.rms_of_hidden = g.rms_of_hidden;
}

GateConfig gate_of(const char* op, const swy_config& c) {
  return {.scoring = enumerator<Scoring>(op, "scoring", c.scoring, SWY_SQRT_SOFTPLUS + 1),
          .renormalize = flag(op, "renormalize", c.renormalize),
          .renormalize_epsilon = c.renormalize_epsilon,
          .clamp_renormalizer = flag(op, "clamp_renormalizer", c.clamp_renormalizer),
          .scale = c.scale,
          .correction_bias = flag(op, "correction_bias", c.correction_bias),
          .num_groups = c.num_groups,
          .num_groups_kept = c.num_groups_kept,
          .group_score =
              enumerator<GroupScore>(op, "group_score", c.group_score, SWY_GROUP_TOP2_SUM + 1),
          .jitter_epsilon = c.jitter_epsilon,
          .logit_softcap = c.logit_softcap,
          .vocabulary = c.vocabulary,
          .num_zero_experts = c.num_zero_experts,
          .expert_scale = flag(op, "expert_scale", c.expert_scale),
          .rms_of_hidden = flag(op, "rms_of_hidden", c.rms_of_hidden)};
}

void set_shared(swy_config& c, const SharedExpertConfig& s) {
  const Activation own = s.activation.value_or(Activation{});
  c.shared_intermediate = s.intermediate;
  c.shared_num_scored = s.num_scored;
  c.shared_sigmoid_gated = s.sigmoid_gated;
  c.shared_activation = s.activation ? static_cast<int32_t>(own.kind) : SWY_ACTIVATION_OF_ROUTED;
  c.shared_activation_alpha = own.alpha;
  c.shared_activation_limit = own.limit;
}

ActivationKind activation_kind(const char* op, const char* name, int32_t value) {
  return enumerator<ActivationKind>(op, name, value,
                                    static_cast<int32_t>(Activations::kAll.size()));
}

SharedExpertConfig shared_of(const char* op, const swy_config& c) {
  SharedExpertConfig s{.intermediate = c.shared_intermediate,
                       .sigmoid_gated = flag(op, "shared_sigmoid_gated", c.shared_sigmoid_gated),
                       .num_scored = c.shared_num_scored};
  if (c.shared_activation != SWY_ACTIVATION_OF_ROUTED)
    s.activation = Activation{activation_kind(op, "shared_activation", c.shared_activation),
                              c.shared_activation_alpha, c.shared_activation_limit};
  return s;
}

swy_options default_options() {
  const LayerOptions o;
  swy_options c{};
  c.size = sizeof c;
  c.max_tokens = o.max_tokens;
  c.masked_max_tokens = o.masked_max_tokens;
  c.alignment = o.alignment;
  c.workspace_limit_bytes = o.workspace_limit_bytes;
  c.tp_size = o.tp_size;
  c.num_link_blocks = o.num_link_blocks;
  c.token_pieces = o.token_pieces;
  c.allow_repeated_experts = o.allow_repeated_experts;
  c.use_all_gather = o.use_all_gather;
  c.fetch_rows = o.fetch_rows;
  c.host_counts = o.host_counts;
  c.peer_memory = o.peer_memory;
  c.host_ordered = o.host_ordered;
  c.poison_workspace = o.poison_workspace;
  c.workspace_per_call = o.workspace_per_call;
  c.sums_at_source = o.sums_at_source;
  c.out_of_range_ids = static_cast<int32_t>(o.out_of_range_ids);
  c.strided_rows = o.strided_rows;
  c.fp8_rows = o.fp8_rows;
  c.experts = static_cast<int32_t>(o.experts);
  c.count_loads = o.count_loads;
  c.lost_rank_timeout_ms = static_cast<int32_t>(o.lost_rank_timeout.count());
  return c;
}

}  // namespace

swy_config from_config(const MoeConfig& config) {
  swy_config c{};
  c.size = sizeof c;
  c.hidden = config.hidden;
  c.intermediate = config.intermediate;
  c.num_experts = config.num_experts;
  c.top_k = config.top_k;
  c.activation = static_cast<int32_t>(config.activation.kind);
  c.activation_alpha = config.activation.alpha;
  c.activation_limit = config.activation.limit;
  set_gate(c, config.gate);
  set_shared(c, config.shared);
  c.expert_bias = config.expert_bias;
  c.router_bias = config.router_bias;
  c.router_f32 = config.router_f32;
  c.f32_sums = config.f32_sums;
  c.path_latent = config.path.latent;
  c.path_input_norm = config.path.input_norm;
  c.path_output_norm = config.path.output_norm;
  c.path_norm_epsilon = config.path.norm_epsilon;
  c.router_weight_on_input = config.router_weight_on_input;
  c.ids_are_given = config.ids_are_given;
  return c;
}

MoeConfig to_config(const char* op, const swy_config* given) {
  const swy_config c = read(op, "config", given, from_config({}));
  MoeConfig config{.hidden = c.hidden,
                   .intermediate = c.intermediate,
                   .num_experts = c.num_experts,
                   .top_k = c.top_k,
                   .activation = {activation_kind(op, "activation", c.activation),
                                  c.activation_alpha, c.activation_limit},
                   .gate = gate_of(op, c),
                   .shared = shared_of(op, c),
                   .expert_bias = flag(op, "expert_bias", c.expert_bias),
                   .router_bias = flag(op, "router_bias", c.router_bias),
                   .router_f32 = flag(op, "router_f32", c.router_f32),
                   .f32_sums = flag(op, "f32_sums", c.f32_sums)};
  config.path = {.input_norm = flag(op, "path_input_norm", c.path_input_norm),
                 .latent = c.path_latent,
                 .output_norm = flag(op, "path_output_norm", c.path_output_norm),
                 .norm_epsilon = c.path_norm_epsilon};
  config.router_weight_on_input = flag(op, "router_weight_on_input", c.router_weight_on_input);
  config.ids_are_given = flag(op, "ids_are_given", c.ids_are_given);
  return config;
}

std::span<const int32_t> slots_of(const char* op, const int32_t* placement, int64_t num_slots) {
  check_range(op, "num_slots", num_slots, 0, kMaxExperts);
  SWITCHYARD_C_REQUIRE((placement != nullptr) == (num_slots > 0), op, ": num_slots=", num_slots,
                       ", placement is ", placement == nullptr ? "NULL" : "given",
                       ", need one expert for each slot. Pass both or neither.");
  return {placement, static_cast<size_t>(num_slots)};
}

LayerOptions to_options(const char* op, const swy_options* given, const swy_context& context) {
  const swy_options c = read_or(op, "options", given, default_options());
  LayerOptions o;
  // First: of a struct that is garbage no pointer is followed.
  o.sums_at_source = flag(op, "sums_at_source", c.sums_at_source);
  o.device = context.device;
  o.backend = context.backend;
  o.max_tokens = c.max_tokens;
  o.masked_max_tokens = c.masked_max_tokens;
  o.alignment = c.alignment;
  o.workspace_limit_bytes = c.workspace_limit_bytes;
  if (c.strategy != nullptr) o.strategy = c.strategy;
  o.tp_size = c.tp_size;
  o.num_link_blocks = c.num_link_blocks;
  o.token_pieces = c.token_pieces;
  o.allow_repeated_experts = flag(op, "allow_repeated_experts", c.allow_repeated_experts);
  o.use_all_gather = flag(op, "use_all_gather", c.use_all_gather);
  o.fetch_rows = flag(op, "fetch_rows", c.fetch_rows);
  o.host_counts = flag(op, "host_counts", c.host_counts);
  o.peer_memory = flag(op, "peer_memory", c.peer_memory);
  o.host_ordered = flag(op, "host_ordered", c.host_ordered);
  o.poison_workspace = flag(op, "poison_workspace", c.poison_workspace);
  o.workspace_per_call = flag(op, "workspace_per_call", c.workspace_per_call);
  o.workspace = {c.workspace.data, c.workspace.bytes};
  o.out_of_range_ids =
      enumerator<OutOfRangeIds>(op, "out_of_range_ids", c.out_of_range_ids, SWY_IDS_NO_EXPERT + 1);
  o.strided_rows = flag(op, "strided_rows", c.strided_rows);
  o.fp8_rows = flag(op, "fp8_rows", c.fp8_rows);
  o.experts = enumerator<DType>(op, "experts", c.experts, SWY_F8_E4M3 + 1);
  const auto slots = slots_of(op, c.placement, c.num_slots);
  o.placement.assign(slots.begin(), slots.end());
  o.count_loads = flag(op, "count_loads", c.count_loads);
  o.lost_rank_timeout = std::chrono::milliseconds(c.lost_rank_timeout_ms);
  if (c.gemm1 != nullptr) o.gemm1 = c.gemm1;
  if (c.gemm2 != nullptr) o.gemm2 = c.gemm2;
  if (c.shared_workspace != nullptr)
    o.shared_workspace = handle(op, "options.shared_workspace", c.shared_workspace).workspace;
  return o;
}

}  // namespace switchyard::c_api

extern "C" {

swy_status swy_config_init(swy_config* config, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_config_init", config, size, from_config({}));
}

swy_status swy_options_init(swy_options* options, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_options_init", options, size, default_options());
}

}  // extern "C"
