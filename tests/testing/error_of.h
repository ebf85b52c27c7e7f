// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/error_of.h -- the Error that a call must throw.
#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "switchyard/error.h"

namespace switchyard::testing {

inline Error error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return {Errc::Unsupported, ""};
}

}  // namespace switchyard::testing
