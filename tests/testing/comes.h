// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/comes.h -- waits for what another thread or process does.
#pragma once

#include <chrono>
#include <thread>

namespace switchyard::testing {

// Whether `condition` holds within the limit.
template <class Condition>
bool comes(const Condition& condition, std::chrono::seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return condition();
}

}  // namespace switchyard::testing
