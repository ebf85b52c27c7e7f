// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/version_rule.h -- which headers a library serves; versions are major * 10000 + minor * 100 + patch.
#pragma once

namespace switchyard {

constexpr bool library_serves(int library, int header) {
  const int major = 10000, minor = 100;
  // Patch releases add nothing, so either may be newer.
  if (library < major || header < major) return library / minor == header / minor;
  return library / major == header / major && library / minor >= header / minor;
}

}  // namespace switchyard
