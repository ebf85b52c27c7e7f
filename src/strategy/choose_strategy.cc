// src/strategy/choose_strategy.cc -- pure: no clock, no environment, no device query. Equal
// requests give equal answers on every rank, so ranks agree without talking.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/require.h"
#include "plan/buffers.h"
#include "plan/row_carrier.h"
#include "strategy/conditions.h"
#include "strategy/cost_model.h"
#include "strategy/gemms.h"
#include "strategy/names.h"
#include "strategy/token_pieces.h"
#include "switchyard/strategy.h"

namespace switchyard {
namespace {

void append(std::vector<Condition>& all, std::vector<Condition> more) {
  all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

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

Strategy evaluate(DispatcherKind dispatcher, ExecutorKind executor, GemmProvider provider,
                  const StrategyRequest& r) {
  Strategy s;
  s.name = canonical_name(dispatcher, executor, provider);
  s.dispatcher = dispatcher;
  s.executor = executor;
  s.provider = provider;
  s.opt_in = executor == ExecutorKind::Hybrid;  // until measurements say that it should not be
  s.provided = dispatcher != DispatcherKind::LowLatency;
  if (!s.provided)
    s.note = cat("not provided yet; the nearest is normal+", executor_name(executor));
  append(s.conditions, layer_conditions(r));
  append(s.conditions, dispatcher_conditions(dispatcher, r));
  append(s.conditions, executor_conditions(executor, r));
  append(s.conditions, provider_conditions(provider, executor, r));
  append(s.conditions, capacity_conditions(dispatcher, executor, provider, r));
  s.workspace_bytes = strategy_workspace_bytes(dispatcher, executor, provider, r);
  if (s.workspace_bytes < 0) return s;  // sizes that mean nothing
  const PieceChoice pieces = choose_token_pieces(dispatcher, executor, provider, r);
  s.token_pieces = pieces.count;
  const RowCarrier carrier = row_carrier(dispatcher, r, pieces.count);
  s.fetch_rows = carrier == RowCarrier::PeerFetch;
  s.carrier = describe(carrier);
  s.predicted_us = pieces.us;
  if (provider == GemmProvider::Hopper) s.gemms = describe_gemms(dispatcher, executor, r);
  return s;
}

// The dispatcher that the ranks call for, as the reference system chooses it.
DispatcherKind dispatcher_for(const StrategyRequest& r) {
  const bool replicated = r.num_ranks == 1 || (r.tp_size == r.num_ranks && r.use_all_gather);
  return replicated ? DispatcherKind::Local : DispatcherKind::Normal;
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
  if (r.use_low_latency) why += ", low latency is not provided yet";
  return why;
}

std::string microseconds(double us) {
  return cat(std::lround(us), " us");
}

Strategy choose_automatically(const StrategyRequest& r) {
  std::vector<Strategy> good;
  std::string failed;  // of the first one of each provider
  for (const auto provider : providers_of(r.device.kind)) {
    bool first = true;
    for (const auto dispatcher : dispatchers_for(r))
      for (const auto executor : kExecutors) {
        Strategy s = evaluate(dispatcher, executor, provider, r);
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
  auto best = *std::min_element(good.begin(), good.end(), [](const auto& a, const auto& b) {
    return a.predicted_us < b.predicted_us;
  });
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
  Strategy s = evaluate(dispatcher, choice.executor, provider, r);
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
  std::vector<Strategy> all;
  for (const auto dispatcher : kDispatchers)
    for (const auto executor : kExecutors)
      for (const auto provider : providers_of(request.device.kind))
        all.push_back(evaluate(dispatcher, executor, provider, request));
  return all;
}

Strategy choose_strategy(const StrategyRequest& request) {
  return request.strategy == "auto" ? choose_automatically(request) : choose_named(request);
}

}  // namespace switchyard
