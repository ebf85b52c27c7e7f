// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/grouped_gemm_fast.cc -- the grouped GEMM with vectors along the inner dimension.
//
// Weights are read as they are, [N, K] bf16, once per block of rows: nothing is repacked, so they
// can be borrowed. A vector of 2L bf16 becomes two of L floats without a shuffle: the even elements
// are the lower halves shifted up, the odd ones the upper halves masked. A tile is 4 weight
// rows and up to 6 rows of src, which are converted once per block of weights into the same
// even/odd order. AVX-512-BF16 takes the pairs of bf16 as they are.
//
// Order of summation of an element: over k in steps of 2L, even lanes before odd ones (with
// AVX-512-BF16 odd before even) into one vector of accumulators, then a fixed tree over its lanes.
// It depends on K and the instruction set only: tiles, blocks and threads choose which elements are
// computed together, never how one is summed.
//
// Bound: with many rows by the FMA units, and nearly by the loads (6 x 2 + 1 per 12 FMAs with
// AVX2); with few rows by the memory that streams the weights.

#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/grouped_gemm_fast.cc"
#include <hwy/foreach_target.h>  // first: it includes this file once per instruction set

#include <hwy/highway.h>

#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>

#include "cpu/grouped_gemm.h"
#include "cpu/instruction_set.h"
#include "cpu/round_bf16-inl.h"

#ifndef SWITCHYARD_CPU_GEMM_BLOCK
#define SWITCHYARD_CPU_GEMM_BLOCK
namespace switchyard::cpu {

// A task: some columns of dst for some rows of one expert.
struct GemmBlock {
  int64_t expert;
  int64_t first_row, num_rows;  // rows of src and dst
  int64_t first_col, num_cols;  // columns of dst, at most kBlockWeights (half of it when gated)
};

// 64 weight rows: 128 KiB of them per 1024 of K stay in L2 while the rows of src pass.
inline constexpr int64_t kBlockWeights = 64;
inline constexpr int64_t kTileWeights = 4;
// 1024 of K at a time: the converted rows of a tile (6 x 4 KiB) stay in L1.
inline constexpr int64_t kBlockK = 1024;

}  // namespace switchyard::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace switchyard::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU32 = hn::RebindToUnsigned<DF>;
using DU16 = hn::Repartition<uint16_t, DU32>;
using VF = hn::Vec<DF>;

constexpr size_t kLanes = hn::MaxLanes(DF());
constexpr int64_t kStep = 2 * static_cast<int64_t>(kLanes);  // elements of K per step
constexpr int kRegisters = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM ? 32 : 16;
constexpr int kMaxRows = 6;
// Weights of a tile that meet its rows at once. Registers hold the accumulators, the halves of one
// weight's pairs, the mask and an element of a row: 6 x 4 + 4 of 32; 3 x 4 + 4 or 6 x 2 + 4 of 16.
// An accumulator that spills costs a third of the rate.
template <int kRows>
constexpr int kWeightsAtOnce = kRows* kTileWeights + 4 <= kRegisters ? 4 : 2;

// With few rows weights come from memory, in streams of 2 KiB that a processor's own prefetching
// stops and starts at: asked for a tile ahead, 1 and 4 rows gain a fifth. With 6 rows, of which
// there may be many, weights are mostly in L2 and asking costs 3 %. Zen 3, 2026-11-25.
constexpr int kPrefetchRows = 4;

HWY_INLINE VF even_of(hn::Vec<DU32> pairs) {
  return hn::BitCast(DF(), hn::ShiftLeft<16>(pairs));
}
HWY_INLINE VF odd_of(hn::Vec<DU32> pairs) {
  return hn::BitCast(DF(), hn::And(pairs, hn::Set(DU32(), 0xffff0000u)));
}
HWY_INLINE hn::Vec<DU32> load_pairs(const Bf16* p) {
  return hn::BitCast(DU32(), hn::LoadU(DU16(), reinterpret_cast<const uint16_t*>(p)));
}

// `count` < kStep elements, zero-padded: nothing past them is read.
HWY_INLINE hn::Vec<DU32> load_tail(const Bf16* p, int64_t count) {
  HWY_ALIGN uint16_t padded[kStep] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = p[i].bits();
  return hn::BitCast(DU32(), hn::Load(DU16(), padded));
}

// [L even, L odd] floats per step; the last step is zero-padded.
HWY_INLINE void convert_row(float* HWY_RESTRICT dst, const Bf16* src, int64_t num_k) {
  for (int64_t i = 0; i < num_k; i += kStep) {
    const auto pairs = num_k - i >= kStep ? load_pairs(src + i) : load_tail(src + i, num_k - i);
    hn::Store(even_of(pairs), DF(), dst + i);
    hn::Store(odd_of(pairs), DF(), dst + i + kLanes);
  }
}

// A step of K, as fp32 multiply-adds of even elements, then of odd ones. Weights pass one at a time
// and are read once; rows are operands in L1.
template <int kRows, int kWeights>
HWY_INLINE void add_step(VF (&acc)[kRows][kWeights], const float* HWY_RESTRICT rows,
                         const Bf16* const (&weights)[kWeights], int64_t at) {
#pragma GCC unroll 4
  for (int j = 0; j < kWeights; ++j) {
    const auto pairs = load_pairs(weights[j] + at);
    const VF even = even_of(pairs), odd = odd_of(pairs);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      acc[r][j] = hn::MulAdd(hn::Load(DF(), rows + r * kBlockK), even, acc[r][j]);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      acc[r][j] = hn::MulAdd(hn::Load(DF(), rows + r * kBlockK + kLanes), odd, acc[r][j]);
  }
}

// kRows rows of src (converted, kBlockK elements apart) times kWeights weight rows, over num_k of
// K, added to the accumulators in `sums` [kRows][4][L].
template <int kRows, int kWeights>
HWY_NOINLINE void multiply_tile(float* HWY_RESTRICT sums, const float* HWY_RESTRICT rows,
                                const Bf16* const* weights, int64_t num_k, int64_t to_next) {
  const DF df;
  const Bf16* w[kWeights];
  std::copy_n(weights, kWeights, w);
  VF acc[kRows][kWeights];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kWeights; ++j)
      acc[r][j] = hn::Load(df, sums + (r * kTileWeights + j) * static_cast<int64_t>(kLanes));

  int64_t i = 0;
  for (; i + kStep <= num_k; i += kStep) {
    if constexpr (kRows <= kPrefetchRows)
      for (int j = 0; j < kWeights; ++j) hwy::Prefetch(w[j] + i + to_next);
    add_step(acc, rows + i, w, i);
  }
  if (i < num_k) {
    HWY_ALIGN Bf16 tails[kWeights][kStep];
    for (int j = 0; j < kWeights; ++j) {
      hn::Store(hn::BitCast(DU16(), load_tail(w[j] + i, num_k - i)), DU16(),
                reinterpret_cast<uint16_t*>(tails[j]));
      w[j] = tails[j];
    }
    add_step(acc, rows + i, w, 0);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kWeights; ++j)
      hn::Store(acc[r][j], df, sums + (r * kTileWeights + j) * static_cast<int64_t>(kLanes));
}

template <int kRows>
void multiply_rows(float* sums, const float* rows, const Bf16* const* weights, int64_t num_k,
                   int64_t to_next) {
  constexpr int kWeights = kWeightsAtOnce<kRows>;
  for (int64_t j = 0; j < kTileWeights; j += kWeights)
    multiply_tile<kRows, kWeights>(sums + j * static_cast<int64_t>(kLanes), rows, weights + j,
                                   num_k, to_next);
}

void multiply(int num_rows, float* sums, const float* rows, const Bf16* const* weights,
              int64_t num_k, int64_t to_next) {
  switch (num_rows) {
    case 1: return multiply_rows<1>(sums, rows, weights, num_k, to_next);
    case 2: return multiply_rows<2>(sums, rows, weights, num_k, to_next);
    case 3: return multiply_rows<3>(sums, rows, weights, num_k, to_next);
    case 4: return multiply_rows<4>(sums, rows, weights, num_k, to_next);
    case 5: return multiply_rows<5>(sums, rows, weights, num_k, to_next);
    default: return multiply_rows<6>(sums, rows, weights, num_k, to_next);
  }
}

// The lanes of four accumulators -> four sums, by a fixed tree.
HWY_INLINE void sum_lanes(float* HWY_RESTRICT dst, const float* HWY_RESTRICT acc) {
  const DF df;
  const VF a = hn::Load(df, acc), b = hn::Load(df, acc + kLanes),
           c = hn::Load(df, acc + 2 * kLanes), d = hn::Load(df, acc + 3 * kLanes);
  const VF ac = hn::Add(hn::InterleaveLower(df, a, c), hn::InterleaveUpper(df, a, c));
  const VF bd = hn::Add(hn::InterleaveLower(df, b, d), hn::InterleaveUpper(df, b, d));
  const VF abcd = hn::Add(hn::InterleaveLower(df, ac, bd), hn::InterleaveUpper(df, ac, bd));
  HWY_ALIGN float blocks[kLanes];
  hn::Store(abcd, df, blocks);
  for (size_t width = kLanes / 2; width >= 4; width /= 2)
    for (size_t i = 0; i < width; ++i) blocks[i] += blocks[i + width];
  std::copy_n(blocks, 4, dst);
}

HWY_INLINE VF sigmoid_times(VF x, VF factor) {  // x / (1 + exp(-factor x))
  const DF df;
  const VF e = hn::Exp(df, hn::Neg(hn::Mul(factor, x)));
  return hn::Div(x, hn::Add(hn::Set(df, 1.0f), e));
}

// The activations that are an exponential and clamps.
HWY_INLINE VF activate_by_exp(const Activation& a, VF gate, VF up) {
  const DF df;
  const VF one = hn::Set(df, 1.0f), limit = hn::Set(df, a.limit);
  if (a.kind == ActivationKind::SiluGated) return hn::Mul(up, sigmoid_times(gate, one));
  const VF u = hn::Max(hn::Min(up, limit), hn::Neg(limit));
  switch (a.kind) {
    case ActivationKind::ClampedSwiglu:
      return hn::Mul(hn::Add(u, one), sigmoid_times(hn::Min(gate, limit), hn::Set(df, a.alpha)));
    case ActivationKind::ClampedSilu: return hn::Mul(u, hn::Min(sigmoid_times(gate, one), limit));
    default: return hn::Mul(u, sigmoid_times(hn::Min(gate, limit), one));  // SiluOfClamped
  }
}

// gate[i] becomes the activated value; `count` is rounded up to whole vectors, which the buffers
// hold.
void activate_row(const Activation& a, float* gate, const float* up, int64_t count) {
  const DF df;
  const bool by_exp =
      a.kind == ActivationKind::SiluGated || a.kind == ActivationKind::ClampedSwiglu ||
      a.kind == ActivationKind::SiluOfClamped || a.kind == ActivationKind::ClampedSilu;
  if (!by_exp) {
    for (int64_t i = 0; i < count; ++i) gate[i] = activate(a, gate[i], up[i]);
    return;
  }
  for (int64_t i = 0; i < count; i += static_cast<int64_t>(kLanes))
    hn::Store(activate_by_exp(a, hn::Load(df, gate + i), hn::Load(df, up + i)), df, gate + i);
}

// The sums of up to kMaxRows rows and one block of weights, by column: gate half and up half.
struct TileSums {
  HWY_ALIGN float gate[kMaxRows][kBlockWeights];
  HWY_ALIGN float up[kMaxRows][kBlockWeights];
};

// Weight rows of tile t of a block, as indices into the expert's rows and columns of dst.
struct TileColumns {
  int64_t column[kTileWeights];
  bool is_up[kTileWeights];

  TileColumns(const GemmView& v, const GemmBlock& block, int64_t tile) {
    const int64_t last = block.num_cols - 1;  // a partial tile repeats its last column
    for (int64_t j = 0; j < kTileWeights; ++j) {
      const int64_t col = v.gated ? 2 * tile + j % 2 : kTileWeights * tile + j;
      column[j] = std::min(col, last);
      is_up[j] = v.gated && j >= 2;
    }
  }
};

// sums = sums * scale + bias, over whole vectors: the buffers hold a block's width rounded up.
HWY_INLINE void scale_and_bias(float* HWY_RESTRICT sums, float scale, const float* bias,
                               int64_t count) {
  const DF df;
  if (scale != 1.0f)
    for (int64_t i = 0; i < count; i += static_cast<int64_t>(kLanes))
      hn::Store(hn::Mul(hn::Load(df, sums + i), hn::Set(df, scale)), df, sums + i);
  if (bias != nullptr)
    for (int64_t i = 0; i < count; ++i) sums[i] += bias[i];
}

// Nothing past `count` is written.
HWY_INLINE void store_all_bf16(const float* HWY_RESTRICT values, Bf16* dst, int64_t count) {
  const DF df;
  const auto lanes = static_cast<int64_t>(kLanes);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store_bf16(df, hn::Load(df, values + i), dst + i);
  for (; i < count; ++i) dst[i] = Bf16(values[i]);
}

void finish_rows(const GemmView& v, const GemmBlock& block, int64_t first_row, int num_rows,
                 TileSums& sums) {
  const float* bias = v.g.bias.present() ? v.g.bias.as<float>() + block.expert * v.n : nullptr;
  const float* gate_bias = bias ? bias + v.gate_index(block.first_col) : nullptr;
  const float* up_bias = bias ? bias + v.up_index(block.first_col) : nullptr;
  for (int r = 0; r < num_rows; ++r) {
    const int64_t row = first_row + r, at = row * v.width + block.first_col;
    float *gate = sums.gate[r], *up = v.gated ? sums.up[r] : sums.gate[r];
    scale_and_bias(gate, v.row_scale(row), gate_bias, block.num_cols);
    if (v.gated) scale_and_bias(up, v.row_scale(row), up_bias, block.num_cols);
    if (v.g.activation) activate_row(*v.g.activation, gate, up, block.num_cols);
    if (v.g.dst.dtype == DType::F32)
      std::copy_n(gate, block.num_cols, v.g.dst.as<float>() + at);
    else
      store_all_bf16(gate, v.g.dst.as<Bf16>() + at, block.num_cols);
  }
}

void compute_rows(const GemmView& v, const GemmBlock& block, int64_t first_row, int num_rows) {
  HWY_ALIGN float rows[kMaxRows * kBlockK];
  HWY_ALIGN float acc[kBlockWeights / kTileWeights][kMaxRows * kTileWeights * kLanes];
  const int64_t weights_per_col = v.gated ? 2 : 1;
  const int64_t num_tiles = (block.num_cols * weights_per_col + kTileWeights - 1) / kTileWeights;
  for (int64_t t = 0; t < num_tiles; ++t)
    std::fill_n(acc[t], static_cast<size_t>(num_rows) * kTileWeights * kLanes, 0.0f);

  for (int64_t k0 = 0; k0 < v.k; k0 += kBlockK) {
    const int64_t num_k = std::min(kBlockK, v.k - k0);
    for (int r = 0; r < num_rows; ++r)
      convert_row(rows + r * kBlockK, v.src_row(first_row + r) + k0, num_k);
    for (int64_t t = 0; t < num_tiles; ++t) {
      const TileColumns columns(v, block, t);
      const Bf16* weights[kTileWeights];
      for (int64_t j = 0; j < kTileWeights; ++j) {
        const int64_t c = block.first_col + columns.column[j];
        weights[j] =
            v.weight_row(block.expert, columns.is_up[j] ? v.up_index(c) : v.gate_index(c)) + k0;
      }
      multiply(num_rows, acc[t], rows, weights, num_k, (v.gated ? 2 : 4) * v.k);
    }
  }

  TileSums sums;
  for (int64_t t = 0; t < num_tiles; ++t) {
    const TileColumns columns(v, block, t);
    for (int r = 0; r < num_rows; ++r) {
      float four[kTileWeights];
      sum_lanes(four, acc[t] + r * kTileWeights * static_cast<int64_t>(kLanes));
      for (int64_t j = 0; j < kTileWeights; ++j)
        (columns.is_up[j] ? sums.up : sums.gate)[r][columns.column[j]] = four[j];
    }
  }
  finish_rows(v, block, first_row, num_rows, sums);
}

void compute_block(const GemmView& v, const GemmBlock& block) {
  const int64_t end = block.first_row + block.num_rows;
  for (int64_t r = block.first_row; r < end; r += kMaxRows)
    compute_rows(v, block, r, static_cast<int>(std::min<int64_t>(kMaxRows, end - r)));
}

}  // namespace switchyard::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace switchyard::cpu {
namespace {

HWY_EXPORT(compute_block);

// How the work is cut: blocks of columns for each expert, and of rows where there are too few of
// those.
struct Cut {
  int64_t cols_per_block;
  int64_t blocks_per_expert;
  int64_t row_parts;

  Cut(const GemmView& v, int num_threads) {
    cols_per_block = v.gated ? kBlockWeights / 2 : kBlockWeights;
    blocks_per_expert = (v.width + cols_per_block - 1) / cols_per_block;
    int64_t active = 0, max_rows = 0;
    for (int64_t e = 0; e < v.num_experts; ++e) {
      active += v.num_rows(e) > 0;
      max_rows = std::max(max_rows, v.num_rows(e));
    }
    // Eight tasks a thread level out what experts of different size leave uneven; fewer than 48
    // rows a part would stream the weights too often.
    const int64_t wanted = 8 * num_threads / std::max<int64_t>(1, active * blocks_per_expert);
    row_parts =
        num_threads == 1 ? 1 : std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, max_rows / 48));
  }
};

}  // namespace

void grouped_gemm_fast(const GroupedGemm& op, ThreadPool& pool) {
  const GemmView v(op);
  const Cut cut(v, pool.num_threads());
  const auto compute = HWY_DYNAMIC_DISPATCH(compute_block);
  // Parts of one block are neighbours, then blocks of one expert: threads share its rows and
  // weights.
  pool.parallel_for(v.num_experts * cut.blocks_per_expert * cut.row_parts, [&](int64_t task) {
    const int64_t part = task % cut.row_parts, block = task / cut.row_parts % cut.blocks_per_expert;
    const int64_t e = task / cut.row_parts / cut.blocks_per_expert, rows = v.num_rows(e);
    const int64_t begin = rows * part / cut.row_parts, end = rows * (part + 1) / cut.row_parts;
    if (begin == end) return;
    const int64_t col = block * cut.cols_per_block;
    compute(v, {e, v.first_row(e) + begin, end - begin, col,
                std::min(cut.cols_per_block, v.width - col)});
  });
}

}  // namespace switchyard::cpu
#endif
