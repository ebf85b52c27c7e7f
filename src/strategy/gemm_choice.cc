// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/gemm_choice.cc
#include "strategy/gemm_choice.h"

#include <algorithm>
#include <cmath>

#include "base/as_error.h"
#include "base/checked.h"
#include "plan/capacity.h"

namespace switchyard {
namespace {

using Names = std::array<std::string, kGemmConfigs.size()>;

// In the order of kGemmConfigs. Made once: a launch may look for one.
const Names& gemm_config_names() {
  static const Names names = [] {
    Names all;
    std::ranges::transform(kGemmConfigs, all.begin(), [](const auto& c) { return describe(c); });
    return all;
  }();
  return names;
}

bool is_of_shape(const TunedGemm& t, const GemmShape& s) {
  return t.operands == s.operands && t.num_experts == s.num_experts && t.n == s.n && t.k == s.k &&
         t.gated == s.gated;
}

// Times as many rows, or as few.
double times_apart(int64_t a, int64_t b) {
  return static_cast<double>(std::max(a, b)) / static_cast<double>(std::min(a, b));
}

// Null where the table says nothing of this shape, or names what is no longer compiled.
const GemmConfig* find_tuned(const GemmShape& s, GemmTable table) {
  if (s.has_chunks || s.num_sms > 0 || s.max_rows < 1) return nullptr;
  const TunedGemm* nearest = nullptr;
  for (const TunedGemm& t : table) {
    if (!is_of_shape(t, s) || times_apart(t.rows, s.max_rows) > kNearRows) continue;
    if (nearest == nullptr ||
        times_apart(t.rows, s.max_rows) < times_apart(nearest->rows, s.max_rows))
      nearest = &t;
  }
  const GemmConfig* found = nearest != nullptr ? find_gemm_config(nearest->config) : nullptr;
  return found != nullptr && why_not(*found, s).empty() ? found : nullptr;
}

const char* operands_name(OperandKind kind) {
  return kind == OperandKind::Bf16 ? "bf16" : "fp8";
}

std::vector<std::string> names_that_can(const GemmShape& s) {
  std::vector<std::string> names;
  for (const GemmConfig& config : kGemmConfigs)
    if (why_not(config, s).empty()) names.push_back(describe(config));
  return names;
}

GemmCandidates candidates_of(const StrategyRequest& r, ExpertGemm which) {
  const auto kind = r.num_ranks == 1 ? DispatcherKind::Local : DispatcherKind::Normal;
  const GemmShape s =
      gemm_shape(r, which, received_rows(kind, r.max_tokens, r.num_ranks, r.tp_size));
  GemmCandidates c{.num_experts = s.num_experts,
                   .n = s.n,
                   .k = s.k,
                   .rows = s.max_rows,
                   .gated = s.gated,
                   .configs = names_that_can(s),
                   .by_rule = describe(choose_gemm_config(s)),
                   .chosen = {}};
  const std::string& named = named_gemm(r, which);
  const bool counts = std::ranges::find(c.configs, named) != c.configs.end();
  c.chosen = counts ? named : describe(choose_gemm(s, gemm_table(r.device, tuned_gpus())).config);
  return c;
}

}  // namespace

GemmTable gemm_table(const DeviceDescription& device, std::span<const TunedGpu> gpus) {
  constexpr double kNear = 0.05;
  for (const TunedGpu& gpu : gpus)
    if (gpu.num_sms == device.num_sms &&
        std::abs(gpu.read_gbps - device.read_gbps) <= kNear * gpu.read_gbps)
      return gpu.gemms;
  return {};
}

GemmChoice choose_gemm(const GemmShape& shape, GemmTable table) {
  if (const GemmConfig* tuned = find_tuned(shape, table)) return {*tuned, GemmChooser::Table};
  return {choose_gemm_config(shape), GemmChooser::Rule};
}

const GemmConfig* find_gemm_config(std::string_view text) {
  const Names& names = gemm_config_names();
  const auto at = std::ranges::find(names, text);
  return at != names.end() ? &kGemmConfigs[static_cast<size_t>(at - names.begin())] : nullptr;
}

std::string why_not(const GemmConfig& c, const GemmShape& s) {
  if (c.operands != s.operands)
    return cat("it multiplies ", operands_name(c.operands), ", the weights are ",
               operands_name(s.operands));
  if (c.adds_chunks != s.has_chunks)
    return c.adds_chunks ? "it adds chunks, which this GEMM has not" : "it adds no chunks";
  if (s.num_sms > 0 && c.streams())
    return cat("its blocks take whatever multiprocessor is free, num_sms=", s.num_sms);
  if (s.num_sms > 0 && c.cluster() > s.num_sms)
    return cat("it takes ", c.cluster(), " multiprocessors at a time, num_sms=", s.num_sms);
  if (s.num_experts > kMaxExperts || !config_fits(c, s.num_experts))
    return cat("its shared memory has no room for E=", s.num_experts);
  return "";
}

const std::string& named_gemm(const StrategyRequest& r, ExpertGemm which) {
  return which == ExpertGemm::First ? r.gemm1 : r.gemm2;
}

GemmShape gemm_shape(const StrategyRequest& r, ExpertGemm which, int64_t max_rows) {
  const MoeConfig& c = r.config;
  const bool first = which == ExpertGemm::First;
  return {.num_experts = experts_of_rank(c.num_experts, r.num_ranks),
          .max_rows = checked_mul(max_rows, c.top_k, "gemms"),
          .n = first ? c.w1_rows() : c.routed_hidden(),
          .k = first ? c.routed_hidden() : c.intermediate,
          .num_sms = r.num_sms == r.device.num_sms ? 0 : r.num_sms,
          .operands = r.experts == DType::F8E4m3 ? OperandKind::F8E4m3 : OperandKind::Bf16,
          .gated = first && c.activation.gated()};
}

std::string why_not_named(const StrategyRequest& r, ExpertGemm which) {
  const std::string& name = named_gemm(r, which);
  if (name.empty()) return "";
  const GemmShape shape = gemm_shape(r, which, 0);
  const GemmConfig* config = find_gemm_config(name);
  const std::string why = config != nullptr
                              ? why_not(*config, shape)
                              : cat("there are ", joined(names_that_can(shape), "; "));
  if (why.empty()) return "";
  return cat(which == ExpertGemm::First ? "gemm1=" : "gemm2=", name, ", ", why);
}

GemmChoice choose_gemm(const StrategyRequest& r, ExpertGemm which, int64_t max_rows) {
  if (const GemmConfig* named = find_gemm_config(named_gemm(r, which)))
    return {*named, GemmChooser::Caller};
  return choose_gemm(gemm_shape(r, which, max_rows), gemm_table(r.device, tuned_gpus()));
}

std::array<GemmCandidates, 2> gemm_candidates(const StrategyRequest& request) {
  return as_errors("gemm_candidates", [&] {
    return std::array{candidates_of(request, ExpertGemm::First),
                      candidates_of(request, ExpertGemm::Second)};
  });
}

}  // namespace switchyard
