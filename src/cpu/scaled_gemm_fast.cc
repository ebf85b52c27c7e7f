// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/scaled_gemm_fast.cc -- the grouped GEMM of f8_e4m3 with vectors along the inner dimension.
//
// Products of a step are summed in double, where they are exact in any order: instruction sets,
// tiles and threads give the bits of the plain form. Weights are read as they are. A code becomes a
// double in four instructions: its bits are those of a float that is 2^120 too small, which may be a
// subnormal one. The sum of a step is multiplied by 2^240 at once. A NaN would come out as 480;
// codes are looked at beside, 32 at a time or so.
//
// Bound: with one row by the conversions, with many by the FMA units, at half the rate of float.
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/scaled_gemm_fast.cc"
#include <hwy/foreach_target.h>  // first: it includes this file once per instruction set

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/scaled_gemm.h"

#ifndef SWITCHYARD_CPU_SCALED_BLOCK
#define SWITCHYARD_CPU_SCALED_BLOCK
namespace switchyard::cpu {

// A task: some columns for some rows of one expert.
struct ScaledBlock {
  int64_t expert;
  int64_t first_row, num_rows;
  int64_t first_col, num_cols;  // at most kScaledColumns
};

inline constexpr int64_t kScaledColumns = 64;
// Steps whose rows are converted at once: 6 rows of 4 KiB.
inline constexpr int64_t kStepsAtOnce = 4;

}  // namespace switchyard::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace switchyard::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DD = hn::ScalableTag<double>;
using DF = hn::Rebind<float, DD>;
using DI32 = hn::Rebind<int32_t, DD>;
using DI8 = hn::Rebind<int8_t, DD>;
using DU8 = hn::ScalableTag<uint8_t>;
using VD = hn::Vec<DD>;

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DD()));
constexpr int64_t kByteLanes = static_cast<int64_t>(hn::MaxLanes(DU8()));
static_assert(kQuantGroup % kByteLanes == 0 && kByteLanes % kLanes == 0);
constexpr int kMaxRows = 6;
constexpr int64_t kColumnsAtOnce = 2;  // 6 x 2 accumulators and what they need are 16 registers
constexpr int64_t kRowStride = kStepsAtOnce * kQuantGroup;
constexpr double kUnscale = 0x1p240;

// The codes' values times 2^-120.
HWY_INLINE VD load_values(const F8E4m3* p) {
  const DI32 di32;
  const auto codes = hn::PromoteTo(di32, hn::LoadU(DI8(), reinterpret_cast<const int8_t*>(p)));
  const auto bits =
      hn::And(hn::ShiftLeft<20>(codes), hn::Set(di32, static_cast<int32_t>(0x87f00000u)));
  return hn::PromoteTo(DD(), hn::BitCast(DF(), bits));
}

// NaN if one of the codes of a step is, else 0.
HWY_INLINE float nan_of(const F8E4m3* step) {
  const DU8 du8;
  const auto* bytes = reinterpret_cast<const uint8_t*>(step);
  auto any = hn::Zero(du8);
  const auto magnitude = hn::Set(du8, uint8_t{0x7f});
  for (int64_t i = 0; i < kQuantGroup; i += kByteLanes) {
    const auto is_nan = hn::Eq(hn::And(hn::LoadU(du8, bytes + i), magnitude), magnitude);
    any = hn::Or(any, hn::VecFromMask(du8, is_nan));
  }
  return hn::AllTrue(du8, hn::Eq(any, hn::Zero(du8))) ? 0.0f
                                                      : std::numeric_limits<float>::quiet_NaN();
}

// Some steps of some rows of src, as doubles; codes past the end of a row count as 0.
struct ConvertedRows {
  HWY_ALIGN double values[kMaxRows * kRowStride];
  float nan[kMaxRows][kStepsAtOnce];
};

// The codes of a step, which has fewer at the end of a row: a copy with zeros then.
HWY_INLINE const F8E4m3* whole_step(const F8E4m3* codes, int64_t count, F8E4m3* copy) {
  if (count >= kQuantGroup) return codes;
  std::copy_n(codes, count, copy);
  std::fill(copy + count, copy + kQuantGroup, F8E4m3::from_bits(0));
  return copy;
}

void convert_row(ConvertedRows& rows, int row, const F8E4m3* src, int64_t count) {
  F8E4m3 copy[kQuantGroup];
  for (int64_t first = 0; first < count; first += kQuantGroup) {
    const F8E4m3* step = whole_step(src + first, count - first, copy);
    double* dst = rows.values + row * kRowStride + first;
    for (int64_t i = 0; i < kQuantGroup; i += kLanes)
      hn::Store(load_values(step + i), DD(), dst + i);
    rows.nan[row][first / kQuantGroup] = nan_of(step);
  }
}

// Sums of products of one step, kRows rows times two columns.
template <int kRows>
HWY_INLINE void multiply_step(float (&sums)[kMaxRows][kColumnsAtOnce], const double* rows,
                              const F8E4m3* const (&weights)[kColumnsAtOnce]) {
  const DD dd;
  VD acc[kRows][kColumnsAtOnce];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
    for (int j = 0; j < kColumnsAtOnce; ++j) acc[r][j] = hn::Zero(dd);
  for (int64_t i = 0; i < kQuantGroup; i += kLanes) {
    const VD first = load_values(weights[0] + i), second = load_values(weights[1] + i);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const VD row = hn::Load(dd, rows + r * kRowStride + i);
      acc[r][0] = hn::MulAdd(row, first, acc[r][0]);
      acc[r][1] = hn::MulAdd(row, second, acc[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int j = 0; j < kColumnsAtOnce; ++j) {
      HWY_ALIGN double lanes[kLanes];
      hn::Store(acc[r][j], dd, lanes);
      double sum = 0;
      for (const double lane : lanes) sum += lane;
      sums[r][j] = static_cast<float>(sum * kUnscale);
    }
}

template <int kRows>
void compute_rows(const ScaledView& v, const ScaledBlock& block, int64_t first_row) {
  ConvertedRows rows;
  float sums[kMaxRows][kScaledColumns] = {};
  for (int64_t b0 = 0; b0 < v.num_steps; b0 += kStepsAtOnce) {
    const int64_t num_steps = std::min(kStepsAtOnce, v.num_steps - b0), k0 = b0 * kQuantGroup;
    const int64_t num_k = std::min(kRowStride, v.k - k0);
    for (int r = 0; r < kRows; ++r) convert_row(rows, r, v.src_row(first_row + r) + k0, num_k);
    for (int64_t c = 0; c < block.num_cols; c += kColumnsAtOnce) {
      for (int64_t s = 0; s < num_steps; ++s) {
        const F8E4m3* weights[kColumnsAtOnce];
        F8E4m3 copies[kColumnsAtOnce][kQuantGroup];
        float nan[kColumnsAtOnce], scales[kColumnsAtOnce];
        for (int64_t j = 0; j < kColumnsAtOnce; ++j) {
          // An odd column at the end is computed twice.
          const int64_t at = block.first_col + std::min(c + j, block.num_cols - 1);
          weights[j] = whole_step(v.weight_row(block.expert, at) + k0 + s * kQuantGroup,
                                  num_k - s * kQuantGroup, copies[j]);
          nan[j] = nan_of(weights[j]);
          scales[j] = v.weight_scale(block.expert, at, b0 + s);
        }
        float step[kMaxRows][kColumnsAtOnce];
        multiply_step<kRows>(step, rows.values + s * kQuantGroup, weights);
        for (int r = 0; r < kRows; ++r) {
          const float scale = v.src_scale(first_row + r, b0 + s);
          for (int64_t j = 0; j < kColumnsAtOnce && c + j < block.num_cols; ++j) {
            float& sum = sums[r][c + j];
            sum = std::fma(scale * scales[j], step[r][j] + (rows.nan[r][s] + nan[j]), sum);
          }
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < block.num_cols; ++c)
      v.finish(block.expert, first_row + r, block.first_col + c, sums[r][c]);
}

void compute_scaled(const ScaledView& v, const ScaledBlock& block) {
  const int64_t end = block.first_row + block.num_rows;
  for (int64_t r = block.first_row; r < end; r += kMaxRows) {
    switch (std::min<int64_t>(kMaxRows, end - r)) {
      case 1: compute_rows<1>(v, block, r); break;
      case 2: compute_rows<2>(v, block, r); break;
      case 3: compute_rows<3>(v, block, r); break;
      case 4: compute_rows<4>(v, block, r); break;
      case 5: compute_rows<5>(v, block, r); break;
      default: compute_rows<6>(v, block, r); break;
    }
  }
}

}  // namespace switchyard::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace switchyard::cpu {
namespace {

HWY_EXPORT(compute_scaled);

}  // namespace

void scaled_gemm_fast(const ScaledGemm& op, ThreadPool& pool) {
  const ScaledView v(op);
  const auto compute = HWY_DYNAMIC_DISPATCH(compute_scaled);
  // Fewer rows a part would read the weights too often.
  constexpr int64_t kRowsPerPart = 48;
  int64_t most = 0;
  for (int64_t e = 0; e < v.num_experts; ++e) most = std::max(most, v.num_rows(e));
  const int64_t parts = (most + kRowsPerPart - 1) / kRowsPerPart;
  const int64_t blocks = (v.n + kScaledColumns - 1) / kScaledColumns;
  pool.parallel_for(v.num_experts * blocks * parts, [&](int64_t task) {
    const int64_t part = task % parts, block = task / parts % blocks, e = task / parts / blocks;
    const int64_t begin = part * kRowsPerPart, col = block * kScaledColumns;
    const int64_t rows = std::min(kRowsPerPart, v.num_rows(e) - begin);
    if (rows <= 0) return;
    compute(v, {e, v.first_row(e) + begin, rows, col, std::min(kScaledColumns, v.n - col)});
  });
}

}  // namespace switchyard::cpu
#endif
