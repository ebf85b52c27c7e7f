// src/executor/hybrid.cc -- masked up to a threshold of rows, contiguous above it. The bound of the
// call decides, on the host: equal on every rank and fixed when a graph is captured.
#include "executor/grouped_executor.h"

namespace switchyard {
namespace {

class HybridExecutor final : public GroupedExecutor {
 public:
  using GroupedExecutor::GroupedExecutor;
  Layout layout_for(int64_t max_rows) const override {
    return max_rows <= options().masked_max_tokens ? Layout::Masked : Layout::Contiguous;
  }
};

}  // namespace

std::unique_ptr<Executor> make_hybrid_executor(ExecutorParts parts) {
  return std::make_unique<HybridExecutor>(std::move(parts));
}

}  // namespace switchyard
