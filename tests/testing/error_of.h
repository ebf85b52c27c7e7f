// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/error_of.h -- the Error that a call must throw, or may.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

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

// What the Error says, which must be of this code; empty where there is none.
inline std::string message_of(Errc code, const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "";
}

}  // namespace switchyard::testing
