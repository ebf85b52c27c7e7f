// src/cpu/small_ops.cc
#include "cpu/small_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/status.h"

namespace switchyard::cpu {

void single_group(const RowGroups& groups, int64_t num_rows) {
  groups.counts.as<int32_t>()[0] = static_cast<int32_t>(num_rows);
  groups.first_row.as<int64_t>()[0] = 0;
  groups.first_row.as<int64_t>()[1] = num_rows;
}

void sigmoid(Tensor dst, ConstTensor src) {
  for (int64_t i = 0; i < src.count(); ++i)
    dst.as<float>()[i] = 1.0f / (1.0f + std::exp(-src.as<float>()[i]));
}

void widen(Tensor dst, ConstTensor src) {
  for (int64_t i = 0; i < src.count(); ++i)
    dst.as<float>()[i] = static_cast<float>(src.as<Bf16>()[i]);
}

void fill_i32(Tensor dst, int32_t value) {
  std::fill_n(dst.as<int32_t>(), dst.count(), value);
}

void copy(Tensor dst, ConstTensor src) {
  if (src.bytes() > 0) std::memcpy(dst.data, src.data, static_cast<size_t>(src.bytes()));
}

void poison(Tensor dst, ConstTensor status) {
  if (status.as<StatusWords>()->good()) return;
  // The canonical quiet NaN; two of them are one of f32.
  std::fill_n(dst.as<Bf16>(), dst.bytes() / 2, Bf16::from_bits(0x7fc0));
}

}  // namespace switchyard::cpu
