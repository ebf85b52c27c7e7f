// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/small_ops.cc
#include "cpu/run.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/status.h"

namespace switchyard::cpu {

template <>
void run(const SingleGroup& op, const Context&) {
  op.groups.counts.as<int32_t>()[0] = static_cast<int32_t>(op.num_rows);
  op.groups.first_row.as<int64_t>()[0] = 0;
  op.groups.first_row.as<int64_t>()[1] = op.num_rows;
}

template <>
void run(const Sigmoid& op, const Context&) {
  for (int64_t i = 0; i < op.src.count(); ++i)
    op.dst.as<float>()[i] = 1.0f / (1.0f + std::exp(-op.src.as<float>()[i]));
}

template <>
void run(const Widen& op, const Context&) {
  for (int64_t i = 0; i < op.src.count(); ++i)
    op.dst.as<float>()[i] = static_cast<float>(op.src.as<Bf16>()[i]);
}

template <>
void run(const FillI32& op, const Context&) {
  std::fill_n(op.dst.as<int32_t>(), op.dst.count(), op.value);
}

template <>
void run(const WriteI32& op, const Context&) {
  std::copy_n(op.src, op.dst.count(), op.dst.as<int32_t>());
}

template <>
void run(const Copy& op, const Context&) {
  if (op.src.bytes() > 0) std::memcpy(op.dst.data, op.src.data, op.src.bytes());
}

template <>
void run(const CopyRows& op, const Context&) {
  const int64_t element = dtype_bytes(op.src.dtype), row_bytes = op.src.dim(1) * element;
  for (int64_t t = 0; t < op.src.dim(0); ++t)
    std::memcpy(op.dst.as<std::byte>() + t * op.dst_stride * element,
                op.src.as<std::byte>() + t * op.src_stride * element,
                static_cast<size_t>(row_bytes));
}

template <>
void run(const Poison& op, const Context&) {
  if (op.status.as<StatusWords>()->good()) return;
  // The canonical quiet NaN; two of them are one of f32.
  std::fill_n(op.dst.as<Bf16>(), op.dst.bytes() / 2, Bf16::from_bits(0x7fc0));
}

}  // namespace switchyard::cpu
