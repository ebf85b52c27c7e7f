// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/end_process.h -- the end of a child of fork, without what its parent registered.
#pragma once

#include <unistd.h>

#ifdef SWITCHYARD_COVERAGE
extern "C" void __gcov_dump();
#endif

namespace switchyard::testing {

// In a build for coverage it leaves its counters, as a process that returns from main does.
[[noreturn]] inline void end_process(int code) {
#ifdef SWITCHYARD_COVERAGE
  __gcov_dump();
#endif
  ::_exit(code);
}

}  // namespace switchyard::testing
