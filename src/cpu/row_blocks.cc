// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/row_blocks.cc
#include "cpu/run.h"

#include <cstring>

namespace switchyard::cpu {
namespace {

void copy_row(Tensor dst, int64_t to, ConstTensor src, int64_t from) {
  const auto bytes = static_cast<size_t>(src.dim(1) * dtype_bytes(src.dtype));
  std::memcpy(dst.as<std::byte>() + static_cast<size_t>(to) * bytes,
              src.as<std::byte>() + static_cast<size_t>(from) * bytes, bytes);
}

}  // namespace

template <>
void run(const PackRows& op, const Context&) {
  const int64_t num_ranks = op.counts.dim(0);
  const auto* to_rank = op.counts.as<int32_t>() + op.rank * num_ranks;
  int64_t n = 0;
  for (int64_t d = 0; d < num_ranks; ++d)
    for (int64_t i = 0; i < to_rank[d]; ++i, ++n)
      copy_row(op.dst, op.block == 0 ? n : d * op.block + i, op.src,
               op.send_rows.present() ? op.send_rows.as<int32_t>()[n] : n);
}

template <>
void run(const UnpackRows& op, const Context&) {
  const int64_t num_ranks = op.counts.dim(0);
  int64_t n = 0;
  for (int64_t s = 0; s < num_ranks; ++s)
    for (int64_t i = 0; i < op.counts.as<int32_t>()[s * num_ranks + op.rank]; ++i, ++n)
      copy_row(op.dst, n, s == op.rank ? op.own : op.blocks, s * op.block + i);
}

}  // namespace switchyard::cpu
