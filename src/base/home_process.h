// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/home_process.h -- a child of fork has a copy of all memory, but neither threads nor
// connections of its own.
#pragma once

#include <unistd.h>

#include "base/require.h"

namespace switchyard {

// The process that an object was made in.
class HomeProcess {
 public:
  bool is_here() const { return getpid() == pid_; }
  void require(const char* operation, const char* what) const {
    SWITCHYARD_REQUIRE(is_here(), Unsupported, operation, ": ", what, " is of process ", pid_,
                       ", this is ", getpid(),
                       ", a child of it. Make what the child needs after the fork.");
  }

 private:
  pid_t pid_ = getpid();
};

}  // namespace switchyard
