// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/cpu_ops.h -- operations of the CPU, one by one.
#pragma once

#include "cpu/run.h"

namespace switchyard::testing {

// The form that defines the meaning.
template <class Op>
void run_plain(const Op& op) {
  cpu::ThreadPool pool(1);
  cpu::run(op, {pool, false});
}

}  // namespace switchyard::testing
