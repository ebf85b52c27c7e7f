// src/strategy/gemms.cc
#include "strategy/gemms.h"

#include "plan/capacity.h"
#include "strategy/gemm_configs.h"

namespace switchyard {
namespace {

// Of a call with at most max_rows received rows; the layout does not matter to the choice.
std::string gemms_at(int64_t max_rows, const StrategyRequest& r) {
  const MoeConfig& c = r.config;
  const int64_t experts = experts_of_rank(c.num_experts, r.num_ranks);
  const int64_t slots = checked_mul(max_rows, c.top_k, "gemms");
  const auto config = [&](int64_t n, int64_t k) {
    return describe(choose_gemm_config({experts, slots, n, k, r.num_sms}));
  };
  return cat("GEMM1 ", config(c.w1_rows(), c.hidden), "; GEMM2 ", config(c.hidden, c.intermediate));
}

}  // namespace

std::string describe_gemms(DispatcherKind dispatcher, ExecutorKind executor,
                           const StrategyRequest& r) {
  const int64_t max_rows = received_rows(dispatcher, r.max_tokens, r.num_ranks, r.tp_size);
  if (max_rows == 0) return "";
  std::string at_capacity = gemms_at(max_rows, r);
  const int64_t threshold = r.masked_max_tokens;
  if (executor != ExecutorKind::Hybrid || threshold == 0 || max_rows <= threshold)
    return at_capacity;
  const std::string at_threshold = gemms_at(threshold, r);
  if (at_threshold == at_capacity) return at_capacity;
  return cat("masked, up to ", threshold, " rows: ", at_threshold, "; contiguous, up to ", max_rows,
             ": ", at_capacity);
}

}  // namespace switchyard
