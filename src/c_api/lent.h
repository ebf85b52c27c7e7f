// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/lent.h -- what the caller lends, with how it gets it back.
#pragma once

namespace switchyard::c_api {

// Calls `release` once, when the last who needs it lets go. It is set when the call that got it has
// succeeded: after a failure the caller still has it.
struct Lent {
  void (*release)(void* owner) = nullptr;
  void* owner = nullptr;

  Lent() = default;
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  ~Lent() {
    if (release != nullptr) release(owner);
  }
};

}  // namespace switchyard::c_api
