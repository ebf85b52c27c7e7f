// src/executor/grouped_executor.h -- scatter, two grouped GEMMs, weighted gather: the flow that
// every executor shares. They differ in the layout of a call, and in nothing else.
#pragma once

#include <memory>

#include "base/backend.h"
#include "base/buffers.h"
#include "ops/ops.h"
#include "switchyard/executor.h"

namespace switchyard {

struct ExecutorParts {
  MoeConfig config;
  ExecutorOptions options;
  ExpertWeights weights;
  int num_ranks = 1;
  int rank = 0;
  std::shared_ptr<Backend> backend;

  GemmProvider provider() const { return options.provider.value_or(backend->provider()); }
  ExecutorShape shape() const {
    return {config.hidden,
            config.intermediate,
            experts_of_rank(config.num_experts, num_ranks),
            config.top_k,
            options.alignment,
            options.allow_repeated_experts,
            sums_columns(config, provider()),
            config.f32_sums};
  }
};

class GroupedExecutor : public Executor {
 public:
  explicit GroupedExecutor(ExecutorParts parts) : parts_(std::move(parts)) {}

  ExecutorKind kind() const override { return parts_.options.kind; }
  size_t workspace_bytes(int64_t max_rows) const override;
  SlotSums execute(Tensor dst, const ReceivedRows& rows, int64_t max_rows, Workspace workspace,
                   const Addend& addend, Tensor status, CUstream_st* stream) override;

 protected:
  const ExecutorOptions& options() const { return parts_.options; }

 private:
  void check(Tensor dst, const ReceivedRows& rows, int64_t max_rows) const;
  GroupedGemm gemm1(const ExecutorBuffers& buffers, const ReceivedRows& rows) const;
  GroupedGemm gemm2(const ExecutorBuffers& buffers) const;

  ExecutorParts parts_;
};

std::unique_ptr<Executor> make_contiguous_executor(ExecutorParts parts);
std::unique_ptr<Executor> make_masked_executor(ExecutorParts parts);
std::unique_ptr<Executor> make_hybrid_executor(ExecutorParts parts);

}  // namespace switchyard
