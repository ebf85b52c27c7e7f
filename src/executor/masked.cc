// src/executor/masked.cc -- a block of fixed capacity for each expert: for few rows.
#include "executor/grouped_executor.h"

namespace switchyard {
namespace {

class MaskedExecutor final : public GroupedExecutor {
 public:
  using GroupedExecutor::GroupedExecutor;
  Layout layout_for(int64_t) const override { return Layout::Masked; }
};

}  // namespace

std::unique_ptr<Executor> make_masked_executor(ExecutorParts parts) {
  return std::make_unique<MaskedExecutor>(std::move(parts));
}

}  // namespace switchyard
