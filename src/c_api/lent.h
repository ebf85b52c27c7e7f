// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/lent.h -- what the caller lends, with how it gets it back.
#pragma once

namespace switchyard::c_api {

// Calls `release` (or NULL) once, when the last who needs it lets go.
class Lent {
 public:
  Lent() = default;
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  ~Lent() {
    if (release_ != nullptr) release_(owner_);
  }

  // Once the call that got it has succeeded: after a failure the caller still has it.
  void own(void (*release)(void* owner), void* owner) {
    release_ = release;
    owner_ = owner;
  }

 private:
  void (*release_)(void* owner) = nullptr;
  void* owner_ = nullptr;
};

}  // namespace switchyard::c_api
