// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/cost_model.cc
#include "strategy/cost_model.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "plan/capacity.h"
#include "plan/row_carrier.h"
#include "plan/row_layout.h"

namespace switchyard {
namespace {

// Rows one rank receives when each of its peers' tokens chooses K of E experts evenly.
double expected_rows(DispatcherKind dispatcher, const StrategyRequest& r) {
  const auto all =
      static_cast<double>(received_rows(dispatcher, r.max_tokens, r.num_ranks, r.tp_size));
  if (dispatcher == DispatcherKind::Local || dispatcher == DispatcherKind::AllGather) return all;
  // A token misses a rank if none of its K choices falls into the rank's E/P experts.
  const double share = 1.0 / r.num_ranks;
  return all * (1 - std::pow(1 - share, r.config.top_k));
}

// Weights of one expert, which are also the multiply-adds of one row.
double gemm_size(const MoeConfig& c) {
  const auto h = static_cast<double>(c.hidden), i = static_cast<double>(c.intermediate);
  return static_cast<double>(c.w1_rows()) * h + i * h;
}

bool is_masked(ExecutorKind executor, int64_t max_rows, const StrategyRequest& r) {
  return executor == ExecutorKind::Masked ||
         (executor == ExecutorKind::Hybrid && max_rows <= r.masked_max_tokens);
}

// What cuBLAS adds to GEMMs over `slots` rows, never below 0: padding that it computes, sums that
// are stored and read once more, and the host that waits for counts.
double cublas_extra_us(double slots, bool masked, double buffer, const StrategyRequest& r) {
  constexpr double kReadCountsUs = 20;  // nominal: wait, copy, start again
  const double rows = masked ? std::max(buffer, slots) : slots;
  const auto columns = static_cast<double>(sums_columns(r.config, GemmProvider::Cublas));
  return (2 * (rows - slots) * gemm_size(r.config) / r.device.gemm_gflops +
          2 * rows * columns * 4 / r.device.read_gbps) *
             1e-3 +
         (masked ? 0 : kReadCountsUs);
}

// How rows get to other ranks and back, in bytes.
struct Travel {
  double crossing = 0;  // links
  double copied = 0;    // beside that, into blocks and out of them
  double link_share = 1;
  double meetings_us = 0;
};

// NCCL was seen to reach 210 to 260 of 390 GB/s, and to take 50 to 60 us of a layer with few rows,
// 30 more where counts come before rows: 2 and 4 H200, docs/decisions/0042.
Travel over_nccl(double crossing, double copied, double meetings_us) {
  return {.crossing = crossing, .copied = copied, .link_share = 0.55, .meetings_us = meetings_us};
}

Travel travel_of(DispatcherKind dispatcher, double rows, const StrategyRequest& r) {
  // The last: the host waits for counts, and NCCL's calls are not captured.
  constexpr double kMeetingsUs = 55, kWithCountsUs = 85, kByHostUs = 400;
  if (r.num_ranks == 1) return {};
  const double p = r.num_ranks, others = (p - 1) / p;
  const auto [carrier, dtype] = row_travel(dispatcher, r, r.token_pieces);
  const auto bytes_of = [&](DType rows_as) {
    return static_cast<double>(row_layout(rows_as, r.config.hidden).row_bytes());
  };
  // Of a row there, of a partial row back, of both.
  const double there = bytes_of(dtype), back = bytes_of(DType::Bf16), both = there + back;
  if (dispatcher == DispatcherKind::Local)
    return is_nccl(carrier) ? over_nccl(rows * (p - 1) * back, 0, kMeetingsUs)
                            : Travel{.crossing = rows * (p - 1) * back};
  if (carrier == RowCarrier::NcclExact)
    return over_nccl(rows * others * both, rows * others * there + rows / p * both, kByHostUs);
  if (carrier != RowCarrier::NcclBlocks) return {.crossing = rows * others * both};
  // Blocks of the bound, whatever the routing.
  const auto bound = static_cast<double>(
      received_rows(DispatcherKind::AllGather, r.max_tokens, r.num_ranks, r.tp_size));
  const double crossing = bound * others * both;
  return dispatcher == DispatcherKind::Normal
             ? over_nccl(crossing, (rows * others + rows) * both, kWithCountsUs)
             : over_nccl(crossing, rows / p * back, kMeetingsUs);
}

// Shares of the device's rates that a layer reaches, and what it takes beside them.
struct Reached {
  double gemm_rate = 1, weight_reads = 1, row_moves = 1;
  double launches_us = 0;
  // Where flops and bytes take about as long, neither hides the other: the root of their squares.
  bool both_count = false;
};

// On a GPU fitted to the 49 contiguous layers of bench/results/h100.json and of h200.json, with all
// of which it agrees within 20 %; tests/strategy/prediction_test.cc asks for that in nine of ten.
Reached reached_by(GemmProvider provider) {
  if (provider == GemmProvider::Cpu) return {};
  return {.gemm_rate = 0.95,
          .weight_reads = 0.95,
          .row_moves = 0.5,
          .launches_us = 22,
          .both_count = true};
}

// Products of fp8 for each of bf16 in the same time, many rows per expert (decision 67). Layers of fp8
// are not measured yet.
constexpr double kFp8Gain = 1.3;

constexpr int kMostPieces = 4;  // chosen: each saves less than the one before, and costs as much
// What a piece takes beside its rows: kernels that tell and wait, there and back.
constexpr double kPieceUs = 30;
// Rows that travel beside the experts take memory and multiprocessors from them, as long as they
// would take at this rate: 2x H100, 2857 us in two pieces of 8192 tokens, which alone take 1169.
constexpr double kBesideExpertsGbps = 300;

double us_of_pieces(int count, const Combination& c, const StrategyRequest& r) {
  StrategyRequest piece = r;
  piece.max_tokens = cut_tokens(r.max_tokens, r.max_tokens, count).tokens;
  const Prediction p = predict(c, piece);
  // The first piece's way there and the last one's way back are not hidden.
  const double beside_us = (count - 1) * p.link_us * r.device.link_gbps / kBesideExpertsGbps;
  return count * (p.compute_us + p.meetings_us) + (count - 1) * kPieceUs + p.link_us + beside_us;
}

}  // namespace

double LocalTime::us() const {
  return launches_us +
         (both_count ? std::hypot(flops_us, weights_us) : std::max(flops_us, weights_us)) + rows_us;
}

LocalTime predict_local(const LocalWork& work, const MoeConfig& config, GemmProvider provider,
                        const DeviceDescription& device) {
  const Reached reached = reached_by(provider);
  const double per_expert = gemm_size(config);
  const auto weight_bytes = static_cast<double>(dtype_bytes(work.experts));
  const bool fp8_on_gpu = work.experts == DType::F8E4m3 && device.kind == DeviceKind::Cuda;
  const double gemm_gflops = device.gemm_gflops * reached.gemm_rate * (fp8_on_gpu ? kFp8Gain : 1);
  // Scatter writes and gather reads a row per slot; both touch the received rows once.
  const double row_bytes = (2 * work.slots + 2 * work.rows) * config.hidden * 2;
  return {.launches_us = reached.launches_us,
          .flops_us = 2 * work.slots * per_expert / gemm_gflops * 1e-3,
          .weights_us = work.active_experts * per_expert * weight_bytes /
                        (device.read_gbps * reached.weight_reads) * 1e-3,
          .rows_us = row_bytes / (device.read_gbps * reached.row_moves) * 1e-3,
          .both_count = reached.both_count};
}

Prediction predict(const Combination& c, const StrategyRequest& r) {
  const auto& [dispatcher, executor, provider] = c;
  // A token's experts are different ones.
  const auto e = static_cast<double>(r.config.num_experts);
  const double k = std::min(static_cast<double>(r.config.top_k), e);
  const double p = r.num_ranks, local_experts = e / p;
  const double tokens =
      static_cast<double>(r.max_tokens) * p / (dispatcher == DispatcherKind::Local ? p : r.tp_size);
  const double slots = tokens * k / p;  // of this rank's experts
  const double rows = expected_rows(dispatcher, r);

  const double active = local_experts * (1 - std::pow(1 - k / e, tokens));
  const LocalTime local =
      predict_local({slots, rows, active, r.experts}, r.config, provider, r.device);
  // Filling the maps of the buffer: 8 bytes per buffer row. This is where an unused masked block
  // costs.
  const int64_t max_rows = received_rows(dispatcher, r.max_tokens, r.num_ranks, r.tp_size);
  const bool masked = is_masked(executor, max_rows, r);
  const auto buffer = static_cast<double>(buffer_rows(
      ExecutorShape::of(r, provider), masked ? Layout::Masked : Layout::Contiguous, max_rows));
  const double plan_us = buffer * 8 / r.device.read_gbps * 1e-3;
  const Travel travel = travel_of(dispatcher, rows, r);
  const double link_us = travel.crossing / (r.device.link_gbps * travel.link_share) * 1e-3;
  const double copy_us =
      2 * travel.copied / (r.device.read_gbps * reached_by(provider).row_moves) * 1e-3;
  const double extra_us =
      provider == GemmProvider::Cublas ? cublas_extra_us(slots, masked, buffer, r) : 0;
  return {local.us() + plan_us + copy_us + extra_us, travel.meetings_us, link_us};
}

PieceChoice choose_token_pieces(const Combination& c, const StrategyRequest& r) {
  const auto choice = [&](int count) { return PieceChoice{count, us_of_pieces(count, c, r)}; };
  const bool is_whole =
      c.dispatcher == DispatcherKind::Local || c.dispatcher == DispatcherKind::LowLatency;
  if (r.num_ranks == 1 || is_whole || r.tp_size > 1) return choice(1);
  const auto most = static_cast<int>(std::clamp<int64_t>(r.max_tokens, 1, kMaxTokenPieces));
  if (r.token_pieces > 0) return choice(std::min(r.token_pieces, most));
  if (r.device.kind == DeviceKind::Cpu) return choice(1);  // one thing at a time
  PieceChoice best = choice(1);
  for (int count = 2; count <= std::min(kMostPieces, most); ++count)
    if (const PieceChoice more = choice(count); more.us < best.us) best = more;
  return best;
}

TokenPieces cut_tokens(int64_t max_tokens, int64_t capacity, int most) {
  if (max_tokens == 0) return {};
  const int64_t count = ceil_div(max_tokens, ceil_div(capacity, int64_t{most}));
  return {count, ceil_div(max_tokens, count)};
}

}  // namespace switchyard
