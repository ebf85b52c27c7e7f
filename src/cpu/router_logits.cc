// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/router_logits.cc -- a grouped GEMM of one group.
#include "base/require.h"
#include "cpu/run.h"

namespace switchyard::cpu {

template <>
void run(const RouterLogits& op, const Context& context) {
  SWITCHYARD_REQUIRE(op.num_splits == 1, Unsupported, "router: splits=", op.num_splits,
                     ", the CPU sums in one go. Pass 1.");
  int32_t count = static_cast<int32_t>(op.hidden.dim(0));
  int64_t first_row[] = {0, count};
  const RowGroups group{Tensor(&count, DType::I32, {1}), Tensor(first_row, DType::I64, {2})};
  run(single_group_gemm(RouterLogits::kName, op.logits, op.hidden, op.weights, group,
                        GemmProvider::Hopper),
      context);
}

}  // namespace switchyard::cpu
