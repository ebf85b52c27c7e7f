// src/cpu/row_blocks.cc
#include "cpu/row_blocks.h"

#include <cstring>

namespace switchyard::cpu {
namespace {

void copy_row(Tensor dst, int64_t to, ConstTensor src, int64_t from) {
  const auto bytes = static_cast<size_t>(src.dim(1) * dtype_bytes(src.dtype));
  std::memcpy(dst.as<std::byte>() + static_cast<size_t>(to) * bytes,
              src.as<std::byte>() + static_cast<size_t>(from) * bytes, bytes);
}

}  // namespace

void pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts, int rank,
               int64_t block) {
  const int64_t num_ranks = counts.dim(0);
  const auto* to_rank = counts.as<int32_t>() + rank * num_ranks;
  int64_t n = 0;
  for (int64_t d = 0; d < num_ranks; ++d)
    for (int64_t i = 0; i < to_rank[d]; ++i, ++n)
      copy_row(dst, block == 0 ? n : d * block + i, src,
               send_rows.present() ? send_rows.as<int32_t>()[n] : n);
}

void unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts, int rank,
                 int64_t block) {
  const int64_t num_ranks = counts.dim(0);
  int64_t n = 0;
  for (int64_t s = 0; s < num_ranks; ++s)
    for (int64_t i = 0; i < counts.as<int32_t>()[s * num_ranks + rank]; ++i, ++n)
      copy_row(dst, n, s == rank ? own : blocks, s * block + i);
}

}  // namespace switchyard::cpu
