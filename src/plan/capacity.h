// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/capacity.h -- how many rows a buffer must hold. Host arithmetic on capacities, no
// counts.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/checked.h"
#include "switchyard/strategy.h"

namespace switchyard {

// Blocks of slots that a plan on a GPU counts side by side; each writes its counts per expert.
inline constexpr int64_t kPlanBlocks = 64;
// Tiles for which a plan has places: enough where GEMMs take one for each block, which have few rows
// per expert (strategy/gemm_configs.cc).
inline constexpr int64_t kTilesPerExpert = 2;

// One executor call at its bound: at most max_rows received rows, K slots each.
struct ExecutorShape {
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t num_local_experts = 0;
  int64_t top_k = 0;
  int64_t alignment = 1;
  bool allow_repeated_experts = false;
  int64_t sums_columns = 0;     // of the scratch that holds fp32 sums; 0: none
  bool f32_rows = false;        // GEMM2's rows stay in f32
  int64_t f8_sums_columns = 0;  // of experts in f8_e4m3: rows of W1; 0: experts are bf16

  static ExecutorShape of(const StrategyRequest& r, GemmProvider provider);
};

// Columns of the fp32 scratch that a provider needs between its GEMM and what reads the sums: only
// cuBLAS cannot take the activation, or a bias before bf16 is rounded, into its own epilogue.
inline int64_t sums_columns(const MoeConfig& config, GemmProvider provider) {
  if (provider != GemmProvider::Cublas) return 0;
  return std::max(config.w1_rows(), config.expert_bias ? config.hidden : 0);
}

// Columns of GEMM1's fp32 sums, which experts in f8_e4m3 quantise once they are activated.
inline int64_t f8_sums_columns(const MoeConfig& config, DType experts) {
  return experts == DType::F8E4m3 ? config.w1_rows() : 0;
}

inline ExecutorShape ExecutorShape::of(const StrategyRequest& r, GemmProvider provider) {
  return {r.config.hidden,
          r.config.intermediate,
          experts_of_rank(r.config.num_experts, r.num_ranks),
          r.config.top_k,
          r.alignment,
          r.allow_repeated_experts,
          switchyard::sums_columns(r.config, provider),
          r.config.f32_sums,
          switchyard::f8_sums_columns(r.config, r.experts)};
}

// Rows per expert of the masked layout: distinct ids fill at most one slot per row and expert.
inline int64_t masked_capacity(const ExecutorShape& s, int64_t max_rows) {
  return s.allow_repeated_experts ? checked_mul(max_rows, s.top_k, "masked capacity") : max_rows;
}

// Rows of the whole buffer, C. Contiguous: every slot, and alignment - 1 rows of padding for each
// expert that can have a row at all.
inline int64_t buffer_rows(const ExecutorShape& s, Layout layout, int64_t max_rows) {
  if (layout == Layout::Masked)
    return checked_mul(s.num_local_experts, masked_capacity(s, max_rows), "masked rows");
  const int64_t slots = checked_mul(max_rows, s.top_k, "contiguous rows");
  const int64_t used_experts = std::min(s.num_local_experts, slots);
  return checked_add(slots, checked_mul(used_experts, s.alignment - 1, "contiguous rows"),
                     "contiguous rows");
}

// Tokens of one rank's slice when `tp_size` ranks share T tokens: the largest slice.
inline int64_t slice_capacity(int64_t max_tokens, int tp_size) {
  return ceil_div(max_tokens, tp_size);
}

// Of a layer's output rows, and of GEMM2's.
inline DType output_dtype(const MoeConfig& config) {
  return config.f32_sums ? DType::F32 : DType::Bf16;
}

// Most rows a rank can receive.
inline int64_t received_rows(DispatcherKind kind, int64_t max_tokens, int num_ranks, int tp_size) {
  if (kind == DispatcherKind::Local) return max_tokens;
  return checked_mul(slice_capacity(max_tokens, tp_size), num_ranks, "received rows");
}

}  // namespace switchyard
