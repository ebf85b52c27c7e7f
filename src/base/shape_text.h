// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/shape_text.h -- "[8, 64, 32]" for messages.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/require.h"
#include "switchyard/tensor.h"

namespace switchyard {

inline std::vector<int64_t> extents(const Shape& shape) {
  std::vector<int64_t> all(shape.rank());
  for (int i = 0; i < shape.rank(); ++i) all[i] = shape[i];
  return all;
}

inline std::string shape_text(std::span<const int64_t> shape) {
  return cat("[", joined(shape), "]");
}

inline std::string shape_text(const Shape& shape) {
  return shape_text(extents(shape));
}

}  // namespace switchyard
