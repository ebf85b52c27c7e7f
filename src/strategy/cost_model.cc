// src/strategy/cost_model.cc
#include "strategy/cost_model.h"

#include <algorithm>
#include <cmath>

#include "base/capacity.h"

namespace switchyard {
namespace {

// Rows one rank receives when each of its peers' tokens chooses K of E experts evenly.
double expected_rows(DispatcherKind dispatcher, const StrategyRequest& r) {
  const auto all =
      static_cast<double>(received_rows(dispatcher, r.max_tokens, r.num_ranks, r.tp_size));
  if (dispatcher != DispatcherKind::Normal) return all;
  // A token misses a rank if none of its K choices falls into the rank's E/P experts.
  const double share = 1.0 / r.num_ranks;
  return all * (1 - std::pow(1 - share, static_cast<double>(r.config.top_k)));
}

}  // namespace

double predict_us(DispatcherKind dispatcher, ExecutorKind executor, const StrategyRequest& r) {
  const auto h = static_cast<double>(r.config.hidden),
             i = static_cast<double>(r.config.intermediate);
  const auto k = static_cast<double>(r.config.top_k), e = static_cast<double>(r.config.num_experts);
  const double p = r.num_ranks, local_experts = e / p;
  const double tokens =
      static_cast<double>(r.max_tokens) * p / (dispatcher == DispatcherKind::Local ? p : r.tp_size);
  const double slots = tokens * k / p;  // of this rank's experts
  const double rows = expected_rows(dispatcher, r);

  // GEMMs: the flops of the slots, or the bytes of every expert that has one.
  const double per_expert = static_cast<double>(r.config.w1_rows()) * h + i * h;
  const double active = local_experts * (1 - std::pow(1 - 1 / e, tokens * k));
  const double gemm_us = std::max(2 * slots * per_expert / r.device.gemm_gflops,
                                  active * per_expert * 2 / r.device.read_gbps) *
                         1e-3;
  // Scatter writes and gather reads a row per slot; both touch the received rows once.
  const double rows_us = (2 * slots + 2 * rows) * h * 2 / r.device.read_gbps * 1e-3;
  // Filling the maps of the buffer: 8 bytes per buffer row. This is where an unused masked block
  // costs.
  const int64_t max_rows = received_rows(dispatcher, r.max_tokens, r.num_ranks, r.tp_size);
  const bool masked = executor == ExecutorKind::Masked ||
                      (executor == ExecutorKind::Hybrid && max_rows <= r.masked_max_tokens);
  const auto buffer = static_cast<double>(
      buffer_rows(ExecutorShape::of(r), masked ? Layout::Masked : Layout::Contiguous, max_rows));
  const double plan_us = buffer * 8 / r.device.read_gbps * 1e-3;
  // Rows that cross the link, there and back.
  const double crossing =
      dispatcher == DispatcherKind::Local ? (p > 1 ? rows * (p - 1) : 0) : rows * (p - 1) / p * 2;
  const double link_us = crossing * h * 2 / r.device.link_gbps * 1e-3;
  return gemm_us + rows_us + plan_us + link_us;
}

}  // namespace switchyard
