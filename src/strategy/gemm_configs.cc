// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/gemm_configs.cc
#include "strategy/gemm_configs.h"

#include <algorithm>

namespace switchyard {
namespace {

constexpr GemmConfig kShortStream = kGemmConfigs[0], kNarrowStream = kGemmConfigs[1],
                     kStream = kGemmConfigs[2], kFew = kGemmConfigs[3], kSome = kGemmConfigs[4],
                     kMany = kGemmConfigs[5], kTurns = kGemmConfigs[6], kChunks = kGemmConfigs[7],
                     kF8Few = kGemmConfigs[8], kF8Many = kGemmConfigs[9];
// Rows per expert up to which streaming was seen to be faster; a short inner dimension makes short
// blocks, whose beginnings and ends show (decision 60).
constexpr int64_t kStreamedRows = 16, kStreamedRowsOfShort = 8, kShort = 1536;
// Where blocks of half the weights were seen to be faster (decision 63).
constexpr int64_t kShortStreamed = 2048;
// Rows per expert up to which configurations were seen to be the fastest, one tile for nearly every
// expert: with 1.25 of the average it still fits (decision 66).
constexpr int64_t kRowsOfFew = 51, kRowsOfSome = 104, kRowsOfSomeOfShort = 116, kRowsOfTurns = 168;
// Two blocks for each SM of an H100 or H200: with fewer, what one of them has on its way does not
// keep its SM's share of memory busy.
constexpr int64_t kFewBlocks = 264;
static_assert(std::ranges::all_of(kGemmConfigs, [](auto& c) { return config_fits(c, 512); }));
// What is chosen without a question fits any number of experts.
static_assert(config_fits(kStream, 4096) && config_fits(kFew, 4096) && config_fits(kSome, 4096) &&
              config_fits(kF8Few, 4096));

}  // namespace

GemmConfig choose_gemm_config(const GemmShape& s) {
  if (s.has_chunks) return kChunks;
  const int64_t rows_per_expert = s.num_experts > 0 ? s.max_rows / s.num_experts : 0;
  if (s.operands == OperandKind::F8E4m3) {
    const bool cluster_fits = s.num_sms == 0 || s.num_sms >= kF8Many.cluster();
    const bool many = rows_per_expert > kRowsOfFew && s.n > kF8Many.weights;
    return many && cluster_fits && config_fits(kF8Many, s.num_experts) ? kF8Many : kF8Few;
  }
  // Blocks that stream take whatever SM is free.
  const bool streams =
      s.num_sms == 0 && rows_per_expert <= (s.k < kShort ? kStreamedRowsOfShort : kStreamedRows);
  if (streams && rows_per_expert > 3) return kStream;
  if (streams) {
    const int64_t narrow_blocks =
        std::min(s.max_rows, s.num_experts) * (s.n / kNarrowStream.weights);
    return s.k <= kShortStreamed || narrow_blocks < kFewBlocks ? kShortStream : kNarrowStream;
  }
  if (rows_per_expert <= kRowsOfFew) return kFew;
  if (rows_per_expert <= (s.k < kShort ? kRowsOfSomeOfShort : kRowsOfSome)) return kSome;
  const GemmConfig& wide = rows_per_expert <= kRowsOfTurns ? kTurns : kMany;
  const bool cluster_fits = s.num_sms == 0 || s.num_sms >= wide.cluster();
  return s.n > wide.weights && cluster_fits && config_fits(wide, s.num_experts) ? wide : kSome;
}

std::string describe(const GemmConfig& c) {
  const std::string across = c.cluster_rows > 1 ? cat(c.cluster_rows, "x") : "";
  return cat(c.rows, "x", c.weights, "x", c.inner(), ", ", c.stages, " stages, cluster of ", across,
             c.cluster_weights, c.adds_chunks ? ", adds chunks" : "", c.scaled() ? ", fp8" : "",
             c.ping_pong ? ", ping-pong" : "", c.rows_first ? ", rows first" : "");
}

}  // namespace switchyard
