// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/enumerator.h -- an integer that a caller made an enumerator may be none.
#pragma once

#include <algorithm>

#include "base/require.h"

namespace switchyard {

// Throws Error(ShapeMismatch) unless `value` is one of `all`, which are those of `type`.
template <class Enum, class All>
void require_enumerator(const char* operation, const char* name, Enum value, const All& all,
                        const char* type) {
  SWITCHYARD_REQUIRE(std::ranges::count(all, value) > 0, ShapeMismatch, operation, ": ", name, "=",
                     static_cast<int>(value), ", is none of ", type, ". Pass one of them.");
}

}  // namespace switchyard
