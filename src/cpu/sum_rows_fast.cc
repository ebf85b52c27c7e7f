// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/sum_rows_fast.cc -- sums of rows with Highway and threads. Multiply and add stay two
// roundings, as in the plain form, so that every instruction set gives its bits. Memory bound.
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/sum_rows_fast.cc"
#include <hwy/foreach_target.h>  // first: it includes this file once per instruction set

#include <hwy/highway.h>

#include <algorithm>

#include "cpu/round_bf16-inl.h"
#include "cpu/rows.h"

#ifndef SWITCHYARD_CPU_ROW_SUM
#define SWITCHYARD_CPU_ROW_SUM
namespace switchyard::cpu {

// One output row and what it is the sum of.
struct RowSum {
  Tensor dst;            // bf16 or f32 [hidden]
  ConstTensor src;       // bf16 or f32, all rows
  const int32_t* rows;   // [num_rows], kNoRow adds nothing
  const float* weights;  // [num_rows] or null: 1
  int64_t num_rows;
  const float* addend;  // [hidden] or null
  float addend_scale;
  int64_t hidden;  // a multiple of 8
};

// Columns that are summed before they are rounded: 2 KiB of fp32, far inside L1.
inline constexpr int64_t kSumColumns = 512;

}  // namespace switchyard::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace switchyard::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 8 lanes: rows are a multiple of 8 elements, so no vector has a tail.
using DF = hn::CappedTag<float, 8>;
using DU32 = hn::RebindToUnsigned<DF>;
using DU16 = hn::Rebind<uint16_t, DF>;
using VF = hn::Vec<DF>;

HWY_INLINE VF load_bf16(const Bf16* p) {
  const auto bits = hn::LoadU(DU16(), reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU32(), bits)));
}

HWY_INLINE VF load(const Bf16* p) {
  return load_bf16(p);
}
HWY_INLINE VF load(const float* p) {
  return hn::LoadU(DF(), p);
}

// sums += weight * row
template <class Number>
HWY_INLINE void add_row(float* HWY_RESTRICT sums, const Number* row, float weight, int64_t width) {
  const DF df;
  const VF factor = hn::Set(df, weight);
  for (int64_t h = 0; h < width; h += static_cast<int64_t>(hn::Lanes(df)))
    hn::Store(hn::Add(hn::Load(df, sums + h), hn::Mul(factor, load(row + h))), df, sums + h);
}

void sum_row(const RowSum& s) {
  const DF df;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  HWY_ALIGN float sums[kSumColumns];
  for (int64_t first = 0; first < s.hidden; first += kSumColumns) {
    const int64_t width = std::min(kSumColumns, s.hidden - first);
    std::fill_n(sums, width, 0.0f);
    for (int64_t i = 0; i < s.num_rows; ++i) {
      if (s.rows[i] == kNoRow) continue;
      const int64_t at = s.rows[i] * s.hidden + first;
      const float weight = s.weights ? s.weights[i] : 1.0f;
      if (s.src.dtype == DType::F32)
        add_row(sums, s.src.as<float>() + at, weight, width);
      else
        add_row(sums, s.src.as<Bf16>() + at, weight, width);
    }
    if (s.addend) add_row(sums, s.addend + first, s.addend_scale, width);
    if (s.dst.dtype == DType::F32) {
      std::copy_n(sums, width, s.dst.as<float>() + first);
      continue;
    }
    for (int64_t h = 0; h < width; h += lanes)
      store_bf16(df, hn::Load(df, sums + h), s.dst.as<Bf16>() + first + h);
  }
}

}  // namespace switchyard::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace switchyard::cpu {
namespace {

HWY_EXPORT(sum_row);

}  // namespace

void sum_rows_fast(const SumRows& op, ThreadPool& pool) {
  const int64_t num_terms = op.sums.row_of_slot.dim(1), hidden = op.dst.dim(1);
  const ConstTensor weights = op.sums.weights, addend = op.addend.rows, scale = op.addend.scale;
  const auto sum = HWY_DYNAMIC_DISPATCH(sum_row);
  for_each_row(num_rows_of(op), pool, [&](int64_t r) {
    if (stays(op, r)) return;
    sum({.dst = op.dst.rows(r, 1),
         .src = op.sums.rows,
         .rows = op.sums.row_of_slot.as<int32_t>() + r * num_terms,
         .weights = weights.present() ? weights.as<float>() + r * num_terms : nullptr,
         .num_rows = num_terms,
         .addend = addend.present() ? addend.as<float>() + r * hidden : nullptr,
         .addend_scale = scale.present() ? scale.as<float>()[r] : 1.0f,
         .hidden = hidden});
  });
}

}  // namespace switchyard::cpu
#endif
