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

template <class Op>
void run_fast(const Op& op, int num_threads = 3) {
  cpu::ThreadPool pool(num_threads);
  cpu::run(op, {pool, true});
}

}  // namespace switchyard::testing
