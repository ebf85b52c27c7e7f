// src/executor/make_executor.cc
#include "executor/grouped_executor.h"
#include "strategy/conditions.h"

namespace switchyard {

std::unique_ptr<Executor> make_executor(const MoeConfig& config, const ExecutorOptions& options,
                                        const ExpertWeights& weights, int num_ranks, int rank,
                                        std::shared_ptr<Backend> backend) {
  validate(config);
  StrategyRequest request;
  request.config = config;
  request.num_ranks = num_ranks;
  request.alignment = options.alignment;
  request.masked_max_tokens = options.masked_max_tokens;
  request.allow_repeated_experts = options.allow_repeated_experts;
  request.host_counts = options.host_counts;
  request.device = describe_device(backend->kind());
  const GemmProvider provider = options.provider.value_or(backend->provider());
  require_all("make_executor", executor_conditions(options.kind, request));
  require_all("make_executor", provider_conditions(provider, options.kind, request));
  validate(weights, config, num_ranks, backend->kind());

  ExecutorParts parts{config, options, weights, num_ranks, rank, std::move(backend)};
  switch (options.kind) {
    case ExecutorKind::Masked: return make_masked_executor(std::move(parts));
    case ExecutorKind::Hybrid: return make_hybrid_executor(std::move(parts));
    case ExecutorKind::Contiguous: break;
  }
  return make_contiguous_executor(std::move(parts));
}

}  // namespace switchyard
