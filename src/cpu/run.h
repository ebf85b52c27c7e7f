// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/run.h -- the CPU's form of every operation of ops/ops.h: a specialisation each, in the
// operation's own file. Linking names one that is missing.
#pragma once

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

struct Context {
  ThreadPool& pool;
  bool fast = true;  // else the plain form, which defines the meaning
};

template <class Op>
void run(const Op& op, const Context& context);

}  // namespace switchyard::cpu
