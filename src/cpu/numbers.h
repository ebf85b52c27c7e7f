// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/numbers.h -- bf16 and f32 elements of a tensor, whichever it holds.
#pragma once

#include "switchyard/tensor.h"

namespace switchyard::cpu {

inline float load_number(ConstTensor t, int64_t i) {
  return t.dtype == DType::F32 ? t.as<float>()[i] : static_cast<float>(t.as<Bf16>()[i]);
}
inline void store_number(Tensor t, int64_t i, float value) {
  if (t.dtype == DType::F32)
    t.as<float>()[i] = value;
  else
    t.as<Bf16>()[i] = Bf16(value);
}
inline float rounded_to(DType dtype, float value) {
  return dtype == DType::F32 ? value : static_cast<float>(Bf16(value));
}

}  // namespace switchyard::cpu
