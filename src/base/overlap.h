// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/overlap.h -- memory that two tensors share.
#pragma once

#include <cstddef>

#include "base/require.h"
#include "switchyard/tensor.h"

namespace switchyard {

inline bool overlap(ConstTensor a, ConstTensor b) {
  const auto* first_a = static_cast<const std::byte*>(a.data);
  const auto* first_b = static_cast<const std::byte*>(b.data);
  return a.bytes() > 0 && b.bytes() > 0 && first_a < first_b + b.bytes() &&
         first_b < first_a + a.bytes();
}

// Rows that are copied to `input_rows` come from elsewhere, or stand there already.
inline void check_place(const char* operation, ConstTensor hidden, ConstTensor input_rows) {
  SWITCHYARD_REQUIRE(hidden.data == input_rows.data || !overlap(hidden, input_rows), ShapeMismatch,
                     operation,
                     ": hidden overlaps input_rows and begins elsewhere. Begin with its first row, "
                     "or use other memory.");
}

}  // namespace switchyard
