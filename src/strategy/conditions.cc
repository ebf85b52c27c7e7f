// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/conditions.cc
#include "strategy/conditions.h"

#include "base/require.h"
#include "plan/buffers.h"
#include "strategy/gemm_choice.h"

namespace switchyard {
namespace {

// "<rule> (saw <what was seen>)".
template <class... Seen>
Condition condition(const char* rule, bool holds, const Seen&... seen) {
  return {cat(rule, " (saw ", seen..., ")"), holds};
}

bool shapes_are_usable(const StrategyRequest& r) {
  return r.num_ranks >= 1 && r.tp_size >= 1 && r.max_tokens >= 0 && r.alignment >= 1 &&
         r.masked_max_tokens >= 0 && r.config.hidden > 0 && r.config.intermediate > 0 &&
         r.config.num_experts >= 1 && r.config.top_k >= 1;
}

// Rows of the largest buffer of a call at the capacity.
int64_t most_rows(const Combination& c, const StrategyRequest& r) {
  const int64_t max_rows = received_rows(c.dispatcher, r.max_tokens, r.num_ranks, r.tp_size);
  const auto layout = c.executor == ExecutorKind::Masked ? Layout::Masked : Layout::Contiguous;
  return buffer_rows(ExecutorShape::of(r, GemmProvider::Cpu), layout, max_rows);  // rows, not bytes
}

const char* on_or_off(bool value) {
  return value ? "on" : "off";
}

std::string gib(int64_t bytes) {
  std::string text = cat(bytes, " bytes, ");
  append_number(text, static_cast<double>(bytes) / (1 << 30), 3);
  return text + " GiB";
}

// Of a config that nobody has validated: no sum of its sizes.
bool has_enough_experts(const MoeConfig& c) {
  if (c.top_k < 1 || c.num_experts < 0) return false;
  return c.ids_are_given || c.top_k <= c.num_experts ||
         c.top_k - c.num_experts <= c.gate.num_zero_experts;
}

}  // namespace

std::vector<Condition> expert_conditions(const StrategyRequest& r) {
  if (r.experts != DType::F8E4m3)
    return {
        condition("experts are bf16 or f8_e4m3", r.experts == DType::Bf16, dtype_name(r.experts))};
  const DeviceDescription& d = r.device;
  const bool runs =
      d.kind == DeviceKind::Cpu || (d.compute_major == 9 && d.compute_minor == 0 &&
                                    r.config.hidden % 16 == 0 && r.config.intermediate % 16 == 0);
  return {
      condition("experts in f8_e4m3 run on CPUs, and on GPUs with compute capability 9.0 where H "
                "and I are multiples of 16; elsewhere load them as bf16",
                runs, device_name(d.kind), ", H=", r.config.hidden, ", I=", r.config.intermediate)};
}

std::vector<Condition> row_conditions(DispatcherKind kind, const StrategyRequest& r) {
  const DType rows = r.experts;
  return {condition("rows travel as bf16 or f8_e4m3", rows == DType::Bf16 || rows == DType::F8E4m3,
                    dtype_name(rows)),
          condition("rows in f8_e4m3 are those of a dispatcher over which rows travel: normal, "
                    "low_latency or all_gather, of several ranks",
                    travelling_dtype(kind, r) == rows, dispatcher_name(kind), ", P=", r.num_ranks)};
}

std::vector<Condition> layer_conditions(const StrategyRequest& r) {
  const MoeConfig& c = r.config;
  return {
      condition("activations are bf16", r.dtype == DType::Bf16, dtype_name(r.dtype)),
      condition("no quantisation", r.quantization.empty(),
                r.quantization.empty() ? "none" : r.quantization.c_str()),
      condition("H is a positive multiple of 8", c.hidden > 0 && c.hidden % 8 == 0, "H=", c.hidden),
      condition("I is a positive multiple of 8", c.intermediate > 0 && c.intermediate % 8 == 0,
                "I=", c.intermediate),
      condition(c.ids_are_given ? "1 <= K" : "1 <= K <= E", has_enough_experts(c), "K=", c.top_k,
                ", E=", c.num_experts),
      condition("there are ranks", r.num_ranks >= 1, "P=", r.num_ranks),
      condition("max_tokens >= 0", r.max_tokens >= 0, "max_tokens=", r.max_tokens),
      condition("weight on the input has a sigmoid top-1 gate",
                !c.router_weight_on_input || (c.gate.scoring == Scoring::Sigmoid && c.top_k == 1),
                c.router_weight_on_input ? "on, K=" : "off, K=", c.top_k),
      condition(
          "the device is available", r.device.available,
          r.device.available ? device_name(r.device.kind) : r.device.unavailable_reason.c_str()),
  };
}

std::vector<Condition> dispatcher_conditions(DispatcherKind kind, const StrategyRequest& r) {
  const bool divides = r.tp_size >= 1 && r.num_ranks % std::max(1, r.tp_size) == 0;
  std::vector<Condition> all = {
      condition("tp divides the ranks", divides, "tp=", r.tp_size, ", P=", r.num_ranks),
  };
  const RowCarrier carrier = row_carrier(kind, r);
  if (is_peer(carrier))
    all.push_back(condition(
        "ranks on CUDA are threads, or processes of one host (transport threads, processes or mpi)",
        r.transport == "threads" || r.transport == "processes" || r.transport == "mpi",
        "P=", r.num_ranks, ", ", r.transport));
  if (is_nccl(carrier))
    all.push_back(condition("ranks that do not reach each other's memory have NCCL", r.has_nccl,
                            r.has_nccl ? "this build has it" : "this build has none"));
  if (carrier == RowCarrier::NcclExact)
    all.push_back(
        condition("no graph captures rows of exact sizes over NCCL (host counts): "
                  "forward waits for the stream to read counts",
                  !r.cuda_graph, "cuda_graph=", on_or_off(r.cuda_graph)));
  switch (kind) {
    case DispatcherKind::Local:
      all.push_back(condition(
          "one rank, or every rank holds all tokens (tp = P) and use_all_gather is on",
          r.num_ranks == 1 || (r.tp_size == r.num_ranks && r.use_all_gather), "P=", r.num_ranks,
          ", tp=", r.tp_size, ", use_all_gather=", on_or_off(r.use_all_gather)));
      break;
    case DispatcherKind::Normal:
    case DispatcherKind::AllGather:
      all.push_back(condition("more than one rank", r.num_ranks > 1, "P=", r.num_ranks));
      break;
    case DispatcherKind::LowLatency:
      all.push_back(condition("more than one rank", r.num_ranks > 1, "P=", r.num_ranks));
      all.push_back(condition("GPUs of low_latency reach each other's memory; over NCCL say normal",
                              !is_nccl(carrier), "peer_memory=", on_or_off(r.peer_memory)));
      break;
  }
  if (r.lost_rank_timeout.count() > 0 && r.num_ranks > 1) {
    all.push_back(
        condition("ranks that are lost are outlived by low_latency, over memory that ranks reach "
                  "in each other",
                  kind == DispatcherKind::LowLatency && is_peer(carrier), dispatcher_name(kind),
                  ", peer_memory=", on_or_off(r.peer_memory)));
    all.push_back(
        condition("so are ranks of at most 64, of no tensor-parallel group, of whole calls",
                  r.num_ranks <= kMaxRankBits && r.tp_size == 1 && r.token_pieces <= 1,
                  "P=", r.num_ranks, ", tp=", r.tp_size, ", pieces=", r.token_pieces));
  }
  if (r.sums_at_source)
    all.push_back(
        condition("rows of experts are summed at their source by low_latency, or one rank",
                  kind == DispatcherKind::LowLatency || r.num_ranks == 1, dispatcher_name(kind),
                  ", P=", r.num_ranks));
  return all;
}

std::vector<Condition> executor_conditions(ExecutorKind kind, const StrategyRequest& r) {
  std::vector<Condition> all;
  if (kind != ExecutorKind::Masked)
    all.push_back(condition("alignment >= 1", r.alignment >= 1, "alignment=", r.alignment));
  if (kind == ExecutorKind::Hybrid)
    all.push_back(condition("masked_max_tokens >= 0", r.masked_max_tokens >= 0,
                            "masked_max_tokens=", r.masked_max_tokens));
  return all;
}

std::vector<Condition> provider_conditions(GemmProvider provider, ExecutorKind executor,
                                           const StrategyRequest& r) {
  const DeviceDescription& d = r.device;
  const bool cuda = d.kind == DeviceKind::Cuda;
  if (provider == GemmProvider::Cpu && !cuda) return {};
  if (cuda == (provider == GemmProvider::Cpu))
    return {condition("the device runs the provider's GEMMs", false, provider_name(provider),
                      " on ", device_name(d.kind))};
  if (provider == GemmProvider::Hopper)
    return {condition("compute capability is 9.0 (sm_90a code)",
                      d.compute_major == 9 && d.compute_minor == 0, "sm_", d.compute_major,
                      d.compute_minor)};
  std::vector<Condition> all = {condition("compute capability >= 8.0", d.compute_major >= 8, "sm_",
                                          d.compute_major, d.compute_minor)};
  const bool has_cublas = d.has_cublas == nullptr || d.has_cublas();
  all.push_back(
      condition("cuBLAS can be opened", has_cublas, has_cublas ? "it is here" : "there is none"));
  all.push_back(condition("one rank over cuBLAS: it loads kernels late, which may wait for a peer",
                          r.num_ranks == 1, "P=", r.num_ranks));
  if (executor == ExecutorKind::Masked) return all;
  all.push_back(condition("contiguous groups over cuBLAS have host counts", r.host_counts,
                          "host_counts=", on_or_off(r.host_counts)));
  all.push_back(condition("no graph captures forward: it waits for the stream to read counts",
                          !r.cuda_graph, "cuda_graph=", on_or_off(r.cuda_graph)));
  return all;
}

std::vector<Condition> gemm_conditions(GemmProvider provider, const StrategyRequest& r) {
  std::vector<Condition> all;
  if (!shapes_are_usable(r)) return all;  // other conditions say so
  for (const ExpertGemm which : {ExpertGemm::First, ExpertGemm::Second}) {
    const std::string& name = named_gemm(r, which);
    if (name.empty()) continue;
    const char* gemm = which == ExpertGemm::First ? "gemm1=" : "gemm2=";
    const std::string why =
        provider == GemmProvider::Hopper
            ? why_not_named(r, which)
            : cat(gemm, name, ", ", provider_name(provider), " has no configurations");
    all.push_back(condition("a GEMM runs in a configuration of hopper's that can do it",
                            why.empty(), why.empty() ? cat(gemm, name) : why));
  }
  return all;
}

int64_t strategy_workspace_bytes(const Combination& c, const StrategyRequest& r) {
  if (!shapes_are_usable(r)) return -1;
  try {
    // Of pieces of a call less, but their number is chosen by rates: this one is by sizes alone.
    const int64_t max_rows = received_rows(c.dispatcher, r.max_tokens, r.num_ranks, r.tp_size);
    return checked_add(
        executor_bytes(ExecutorShape::of(r, c.provider), c.executor, r.masked_max_tokens, max_rows),
        dispatcher_bytes(c.dispatcher, r.config, r.max_tokens, r.num_ranks, r.tp_size,
                         row_travel(c.dispatcher, r, r.token_pieces), r.sums_at_source),
        "workspace");
  } catch (const Error&) {
    return -1;  // sizes that do not fit 63 bits: the condition on the workspace says so
  }
}

std::vector<Condition> capacity_conditions(const Combination& c, const StrategyRequest& r) {
  const int64_t bytes = strategy_workspace_bytes(c, r);
  const std::string seen = bytes < 0 ? "sizes beyond 63 bits" : gib(bytes);
  return {
      condition("rows of the buffers fit 31 bits", bytes >= 0 && most_rows(c, r) <= INT32_MAX,
                "max_tokens=", r.max_tokens, ", P=", r.num_ranks, ", K=", r.config.top_k),
      condition("the workspace is within the limit", bytes >= 0 && bytes <= r.workspace_limit_bytes,
                seen, ", limit ", r.workspace_limit_bytes)};
}

std::string failures(const std::vector<Condition>& conditions) {
  std::vector<std::string> failed;
  for (const auto& c : conditions)
    if (!c.holds) failed.push_back(c.text);
  return joined(failed, "; ");
}

void require_all(const char* operation, const std::vector<Condition>& conditions) {
  const std::string failed = failures(conditions);
  SWITCHYARD_REQUIRE(failed.empty(), Unsupported, operation, ": condition failed: ", failed,
                     ". Change what it saw, or choose another strategy.");
}

}  // namespace switchyard
