// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/gemm_choice.h -- whose word the configuration of a grouped GEMM is: the caller's, that
// of a table of measured times, or the rule's.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "strategy/gemm_configs.h"
#include "switchyard/strategy.h"

namespace switchyard {

// A configuration that takes less than the rule's, at a number of rows that was measured.
struct TunedGemm {
  OperandKind operands;
  int64_t num_experts, n, k;
  bool gated;
  int64_t rows;        // GemmShape::max_rows
  const char* config;  // as describe() says it
};
using GemmTable = std::span<const TunedGemm>;

// What bounds a GEMM tells GPUs apart: products by their multiprocessors, and reads.
struct TunedGpu {
  const char* name;  // for readers
  int num_sms;
  double read_gbps;  // DeviceDescription::read_gbps
  GemmTable gemms;
};
// gemm_table.cc, which scripts/gemm_table.py writes from bench/results.
std::span<const TunedGpu> tuned_gpus();
// The table of a device; empty where none was measured.
GemmTable gemm_table(const DeviceDescription& device, std::span<const TunedGpu> gpus);

enum class GemmChooser { Rule, Table, Caller };
struct GemmChoice {
  GemmConfig config;
  GemmChooser by = GemmChooser::Rule;
};
// Of the table: the same shape at the nearest number of rows, which is not further than kNearRows
// times as many or as few, where the call may use all multiprocessors. Else the rule's.
inline constexpr double kNearRows = 1.25;
GemmChoice choose_gemm(const GemmShape& shape, GemmTable table);

// The compiled one that describe() says so; null where there is none.
const GemmConfig* find_gemm_config(std::string_view text);
// Why a GEMM of this shape cannot run in it; empty where it can.
std::string why_not(const GemmConfig& config, const GemmShape& shape);

// ---- of a layer's routed experts

enum class ExpertGemm { First, Second };
// The caller's word; empty: none.
const std::string& named_gemm(const StrategyRequest& request, ExpertGemm which);
// With at most `max_rows` received rows.
GemmShape gemm_shape(const StrategyRequest& request, ExpertGemm which, int64_t max_rows);
// Why the configuration that the caller named cannot do it; empty where it can, or none is named.
std::string why_not_named(const StrategyRequest& request, ExpertGemm which);
GemmChoice choose_gemm(const StrategyRequest& request, ExpertGemm which, int64_t max_rows);

}  // namespace switchyard
