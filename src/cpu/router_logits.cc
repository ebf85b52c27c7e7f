// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/router_logits.cc -- a grouped GEMM of one group.
#include "cpu/run.h"

namespace switchyard::cpu {

template <>
void run(const RouterLogits& op, const Context& context) {
  run(SingleGroup{op.group, op.hidden.dim(0)}, context);
  run(single_group_gemm(RouterLogits::kName, op.logits, op.hidden, op.weights, op.group,
                        GemmProvider::Hopper),
      context);
}

}  // namespace switchyard::cpu
