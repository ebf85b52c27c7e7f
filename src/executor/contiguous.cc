// src/executor/contiguous.cc -- rows sorted by expert, groups padded to the alignment: for many
// rows.
#include "executor/grouped_executor.h"

namespace switchyard {
namespace {

class ContiguousExecutor final : public GroupedExecutor {
 public:
  using GroupedExecutor::GroupedExecutor;
  Layout layout_for(int64_t) const override { return Layout::Contiguous; }
};

}  // namespace

std::unique_ptr<Executor> make_contiguous_executor(ExecutorParts parts) {
  return std::make_unique<ContiguousExecutor>(std::move(parts));
}

}  // namespace switchyard
