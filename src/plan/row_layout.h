// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/row_layout.h -- what of a token travels to the ranks that own its experts, as a value: the
// parts of a row, each a tensor [N, width] of its own.
//
// Buffers, exchanges and kernels that move rows know parts and their bytes. What they hold is known
// where they are made (DispatcherParts::travelling) and where they are read (the executor).
#pragma once

#include <array>
#include <initializer_list>
#include <type_traits>

#include "base/arena.h"
#include "base/checked.h"
#include "switchyard/block_scales.h"
#include "switchyard/dispatcher.h"

namespace switchyard {

struct RowPart {
  DType dtype = DType::Bf16;
  int64_t width = 0;

  int64_t bytes() const { return width * dtype_bytes(dtype); }
};

inline constexpr size_t kMaxRowParts = 4;  // codes, scales, ids and weights

class RowLayout {
 public:
  RowLayout(std::initializer_list<RowPart> parts) {
    for (const RowPart& part : parts) parts_[size_++] = part;
  }
  const RowPart* begin() const { return parts_.data(); }
  const RowPart* end() const { return parts_.data() + size_; }

  int64_t row_bytes() const {
    int64_t bytes = 0;
    for (const RowPart& part : *this) bytes += part.bytes();
    return bytes;
  }
  // Rows that travel together with the ids and weights of their slots.
  RowLayout with_slots(int64_t top_k) const {
    RowLayout all = *this;
    all.parts_[all.size_++] = {DType::I32, top_k};
    all.parts_[all.size_++] = {DType::F32, top_k};
    return all;
  }

 private:
  std::array<RowPart, kMaxRowParts> parts_{};
  size_t size_ = 0;
};

// Hidden states as `dtype`: bf16, or the codes and the scales of QuantizeRows.
inline RowLayout row_layout(DType dtype, int64_t hidden) {
  if (dtype != DType::F8E4m3) return {{dtype, hidden}};
  return {{dtype, hidden}, {DType::F32, ceil_div(hidden, kQuantGroup)}};
}

// Rows in such a layout: views, absent past the layout's parts.
template <class AnyTensor>
class BasicRowParts {
 public:
  BasicRowParts() = default;
  // Rows of one part.
  template <class T>
  requires std::is_convertible_v<T, AnyTensor> BasicRowParts(const T& only)
      : parts_{AnyTensor(only)}, size_(AnyTensor(only).present() ? 1 : 0) {}
  template <class Other>
  requires(!std::is_same_v<Other, AnyTensor>) BasicRowParts(const BasicRowParts<Other>& other) {
    for (const Other& part : other) add(part);
  }

  const AnyTensor* begin() const { return parts_.data(); }
  const AnyTensor* end() const { return parts_.data() + size_; }
  size_t size() const { return size_; }
  bool present() const { return size_ > 0; }
  const AnyTensor& operator[](size_t part) const { return parts_[part]; }
  int64_t num_rows() const { return parts_[0].dim(0); }

  BasicRowParts rows(int64_t first, int64_t num) const {
    BasicRowParts some;
    for (const AnyTensor& part : *this) some.add(part.rows(first, num));
    return some;
  }
  BasicRowParts with_slots(const AnyTensor& ids, const AnyTensor& weights) const {
    BasicRowParts all = *this;
    all.add(ids);
    all.add(weights);
    return all;
  }
  void add(const AnyTensor& part) { parts_[size_++] = part; }

 private:
  std::array<AnyTensor, kMaxRowParts> parts_{};
  size_t size_ = 0;
};
using RowParts = BasicRowParts<Tensor>;
using ConstRowParts = BasicRowParts<ConstTensor>;

inline RowParts take_rows(Arena& arena, const RowLayout& layout, int64_t num_rows) {
  RowParts rows;
  for (const RowPart& part : layout) rows.add(arena.take(part.dtype, {num_rows, part.width}));
  return rows;
}

// Where an executor finds them.
inline RowSource source_of(const ConstRowParts& rows, const PeerBases& peers = {},
                           int64_t block = 0) {
  return {.rows = rows[0], .peers = peers, .block = block, .scales = rows[1]};
}

}  // namespace switchyard
