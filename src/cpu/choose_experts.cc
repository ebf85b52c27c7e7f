// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/choose_experts.cc -- logits, then the choice.
#include "cpu/run.h"

namespace switchyard::cpu {

template <>
void run(const ChooseExperts& op, const Context& context) {
  run(op.router, context);
  run(op.gate, context);
}

}  // namespace switchyard::cpu
