// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/allocations.h -- what is known of the allocations of a program that includes
// testing/counted_new.h somewhere, and which of them fails.
#pragma once

#include <atomic>
#include <cstdint>

namespace switchyard::testing {

inline std::atomic<int64_t> g_allocations = 0;         // of this program, all threads
inline std::atomic<int64_t> g_failing_allocation = 0;  // the number of one that fails; 0: none

// Whether the one at hand fails.
inline bool allocation_fails() {
  return ++g_allocations == g_failing_allocation;
}

}  // namespace switchyard::testing
