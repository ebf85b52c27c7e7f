// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/choose_strategy.cc -- pure: no clock, no environment, no device query but for
// DeviceDescription::has_cublas, where cuBLAS is evaluated. Equal requests give equal answers on every
// rank, so ranks agree without talking.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/as_error.h"
#include "base/require.h"
#include "plan/buffers.h"
#include "plan/row_carrier.h"
#include "strategy/conditions.h"
#include "strategy/cost_model.h"
#include "strategy/gemm_choice.h"
#include "switchyard/strategy.h"

namespace switchyard {
namespace {

std::vector<GemmProvider> providers_of(DeviceKind device) {
  if (device == DeviceKind::Cpu) return {GemmProvider::Cpu};
  return {kCudaProviders.begin(), kCudaProviders.end()};
}

std::string describe(RowCarrier carrier) {
  switch (carrier) {
    case RowCarrier::Communicator: break;
    case RowCarrier::PeerPush: return "kernels, pushed into peer memory";
    case RowCarrier::PeerFetch: return "kernels, fetched from peer memory by the scatter";
    case RowCarrier::NcclBlocks: return "NCCL, in blocks of the call's bound";
    case RowCarrier::NcclExact: return "NCCL, in exact sizes (host counts)";
  }
  return {};
}

const char* chooser_name(GemmChooser by) {
  switch (by) {
    case GemmChooser::Rule: break;
    case GemmChooser::Table: return "by a table of measured times";
    case GemmChooser::Caller: return "asked for";
  }
  return "by rule";
}

// Hopper's two grouped GEMMs of a call with at most max_rows received rows; the layout does not
// matter to the choice.
std::string gemms_at(int64_t max_rows, const StrategyRequest& r) {
  const auto config = [&](ExpertGemm which) {
    const GemmChoice choice = choose_gemm(r, which, max_rows);
    return cat(describe(choice.config), " (", chooser_name(choice.by), ")");
  };
  return cat("GEMM1 ", config(ExpertGemm::First), "; GEMM2 ", config(ExpertGemm::Second));
}

// At the request's capacity; hybrid: of either layout at its bound, where they differ. Empty where
// no row can come.
std::string describe_gemms(const Combination& c, const StrategyRequest& r) {
  const int64_t max_rows = received_rows(c.dispatcher, r.max_tokens, r.num_ranks, r.tp_size);
  if (max_rows == 0) return "";
  std::string at_capacity = gemms_at(max_rows, r);
  const int64_t threshold = r.masked_max_tokens;
  if (c.executor != ExecutorKind::Hybrid || threshold == 0 || max_rows <= threshold)
    return at_capacity;
  const std::string at_threshold = gemms_at(threshold, r);
  if (at_threshold == at_capacity) return at_capacity;
  return cat("masked, up to ", threshold, " rows: ", at_threshold, "; contiguous, up to ", max_rows,
             ": ", at_capacity);
}

Strategy evaluate(const Combination& c, const StrategyRequest& r) {
  const auto& [dispatcher, executor, provider] = c;
  Strategy s;
  s.name = canonical_name(c);
  s.dispatcher = dispatcher;
  s.executor = executor;
  s.provider = provider;
  s.opt_in = executor == ExecutorKind::Hybrid;  // until measurements say that it should not be
  for (auto& conditions :
       {layer_conditions(r), expert_conditions(r), dispatcher_conditions(dispatcher, r),
        executor_conditions(executor, r), provider_conditions(provider, executor, r),
        gemm_conditions(provider, r), capacity_conditions(c, r)})
    s.conditions.insert(s.conditions.end(), conditions.begin(), conditions.end());
  s.workspace_bytes = strategy_workspace_bytes(c, r);
  if (s.workspace_bytes < 0) return s;  // sizes that mean nothing
  const PieceChoice pieces = choose_token_pieces(c, r);
  s.token_pieces = pieces.count;
  const RowCarrier carrier = row_carrier(dispatcher, r, pieces.count);
  s.fetch_rows = carrier == RowCarrier::PeerFetch;
  s.carrier = describe(carrier);
  s.rows = travelling_dtype(dispatcher, r);
  s.predicted_us = pieces.us;
  if (provider == GemmProvider::Hopper) s.gemms = describe_gemms(c, r);
  return s;
}

// The dispatcher that the ranks call for, as rtp-llm, the reference system, chooses it.
DispatcherKind dispatcher_for(const StrategyRequest& r) {
  const bool replicated = r.num_ranks == 1 || (r.tp_size == r.num_ranks && r.use_all_gather);
  if (replicated) return DispatcherKind::Local;
  const bool wants_low_latency =
      r.use_low_latency || r.sums_at_source || r.lost_rank_timeout.count() > 0;
  return wants_low_latency && !is_nccl(row_carrier(DispatcherKind::LowLatency, r))
             ? DispatcherKind::LowLatency
             : DispatcherKind::Normal;
}

// All that `auto` compares. Over NCCL all rows to all ranks may cost less than to pack blocks of
// the bound, which are as large, or than to let the host wait for exact sizes.
std::vector<DispatcherKind> dispatchers_for(const StrategyRequest& r) {
  const DispatcherKind kind = dispatcher_for(r);
  if (kind == DispatcherKind::Normal && is_nccl(row_carrier(kind, r)))
    return {kind, DispatcherKind::AllGather};
  return {kind};
}

std::string why_dispatcher(const StrategyRequest& r, DispatcherKind kind) {
  if (r.num_ranks == 1) return "one rank, nothing moves";
  if (kind == DispatcherKind::Local) return "every rank holds all tokens (tp = P)";
  std::string why = cat(r.num_ranks, " ranks, ",
                        kind == DispatcherKind::AllGather ? "all rows to all ranks cost least"
                                                          : "one row per token and owning rank");
  if (is_nccl(row_carrier(DispatcherKind::Normal, r))) why += ", over NCCL";
  if (kind == DispatcherKind::LowLatency) why += ", low latency is asked for";
  return why;
}

std::string microseconds(double us) {
  return cat(std::lround(us), " us");
}

Strategy choose_automatically(const StrategyRequest& r) {
  std::vector<Strategy> good;
  std::string failed;  // of the first one of each provider
  for (const auto provider : providers_of(r.device.kind)) {
    // cuBLAS never costs less than Hopper's kernels (cost_model.cc), and to look for it takes time.
    if (!good.empty()) break;
    bool first = true;
    for (const auto dispatcher : dispatchers_for(r))
      for (const auto executor : kExecutors) {
        Strategy s = evaluate({dispatcher, executor, provider}, r);
        if (s.opt_in) continue;
        if (!s.holds() && std::exchange(first, false))
          failed += cat(failed.empty() ? "" : cat("; for ", s.name, ": "), failures(s.conditions));
        if (s.holds()) good.push_back(std::move(s));
      }
  }
  SWITCHYARD_REQUIRE(!good.empty(), Unsupported,
                     "strategy: auto, no strategy meets its conditions: ", failed,
                     ". Change what it saw.");
  // The first of equals: Hopper's kernels, and contiguous, which every batch size suits.
  auto best = *std::ranges::min_element(good, {}, &Strategy::predicted_us);
  best.reason = cat(
      "auto: ", why_dispatcher(r, best.dispatcher), "; ", executor_name(best.executor),
      best.provider == GemmProvider::Cublas ? " over cublas" : "", " is the cheapest that holds (",
      microseconds(best.predicted_us), " predicted at ", r.max_tokens, " tokens a rank)");
  return best;
}

Strategy choose_named(const StrategyRequest& r) {
  const NamedChoice choice = parse_strategy_name(r.strategy);
  SWITCHYARD_REQUIRE(choice.not_provided.empty(), Unsupported, "strategy: name=", r.strategy, ", ",
                     choice.not_provided);
  const auto dispatcher =
      choice.dispatcher.value_or(r.num_ranks == 1 ? DispatcherKind::Local : DispatcherKind::Normal);
  const auto provider = choice.provider.value_or(providers_of(r.device.kind).front());
  Strategy s = evaluate({dispatcher, choice.executor, provider}, r);
  if (choice.experts)
    s.conditions.push_back({cat("the name is of experts in ", dtype_name(*choice.experts), " (saw ",
                                dtype_name(r.experts), ")"),
                            r.experts == *choice.experts});
  SWITCHYARD_REQUIRE(s.holds(), Unsupported, "strategy: name=", r.strategy, " (", s.name,
                     "), condition failed: ", failures(s.conditions),
                     ". Change what it saw, or say auto.");
  s.reason = cat("asked for by name: ", r.strategy);
  if (!choice.dispatcher) s.reason += cat("; ", why_dispatcher(r, dispatcher));
  if (!choice.warning.empty()) s.warnings.push_back(choice.warning);
  return s;
}

}  // namespace

std::vector<Strategy> evaluate_strategies(const StrategyRequest& request) {
  return as_errors("evaluate_strategies", [&] {
    std::vector<Strategy> all;
    for (const auto dispatcher : kDispatchers)
      for (const auto executor : kExecutors)
        for (const auto provider : providers_of(request.device.kind))
          all.push_back(evaluate({dispatcher, executor, provider}, request));
    return all;
  });
}

Strategy choose_strategy(const StrategyRequest& request) {
  return as_errors("choose_strategy", [&] {
    return request.strategy == "auto" ? choose_automatically(request) : choose_named(request);
  });
}

}  // namespace switchyard
