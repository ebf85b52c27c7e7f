// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/version.cc
#include "switchyard/version.h"

#include "base/version_rule.h"

namespace switchyard {

const char* version() noexcept {
  return SWITCHYARD_VERSION;
}

int version_number() noexcept {
  return SWITCHYARD_VERSION_NUMBER;
}

bool serves(int header) noexcept {
  return library_serves(SWITCHYARD_VERSION_NUMBER, header);
}

}  // namespace switchyard
