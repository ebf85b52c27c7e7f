// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/quantize_rows_fast.cc -- rows to f8_e4m3 with Highway and threads. The maximum is one of
// integers, where a NaN is above infinity; quotient and rounding are those of the plain form, so
// every instruction set gives its bytes.
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/quantize_rows_fast.cc"
#include <hwy/foreach_target.h>  // first: it includes this file once per instruction set

#include <hwy/highway.h>

#include "cpu/quantize_rows.h"

HWY_BEFORE_NAMESPACE();
namespace switchyard::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU32 = hn::RebindToUnsigned<DF>;
using DU16 = hn::Rebind<uint16_t, DF>;
using DU8 = hn::Rebind<uint8_t, DF>;
using VF = hn::Vec<DF>;
using VU32 = hn::Vec<DU32>;

constexpr size_t kLanes = hn::MaxLanes(DF());
constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;

HWY_INLINE VF load(const float* p) {
  return hn::LoadU(DF(), p);
}
HWY_INLINE VF load(const Bf16* p) {
  const auto bits = hn::LoadU(DU16(), reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU32(), bits)));
}

// F8E4m3(x), except that a NaN is not looked for: a group that has one is all NaN. Infinity over
// infinity is one.
HWY_INLINE VU32 to_e4m3(VF x) {
  const DU32 du32;
  const auto bits = hn::BitCast(du32, x), magnitude = hn::And(bits, hn::Set(du32, kMagnitude));
  const auto sign = hn::And(hn::ShiftRight<24>(bits), hn::Set(du32, 0x80u));
  const auto sum = hn::Add(hn::BitCast(DF(), magnitude), hn::Set(DF(), 16384.0f));
  const auto subnormal = hn::And(hn::BitCast(du32, sum), hn::Set(du32, 0xfu));
  const auto odd = hn::And(hn::ShiftRight<20>(magnitude), hn::Set(du32, 1u));
  const auto half = hn::Add(hn::Set(du32, 0x7ffffu), odd);
  const auto rounded = hn::ShiftRight<20>(hn::Add(magnitude, half));
  const auto normal =
      hn::Sub(hn::Min(rounded, hn::Set(du32, 0x7eu + (120u << 3))), hn::Set(du32, 120u << 3));
  const auto is_small = hn::Lt(magnitude, hn::Set(du32, 0x3c800000u));
  const auto code = hn::Or(hn::IfThenElse(is_small, subnormal, normal), sign);
  const auto is_nan = hn::Gt(magnitude, hn::Set(du32, kInfinity));
  return hn::IfThenElse(is_nan, hn::Set(du32, 0x7fu), code);
}

// The largest magnitude, as bits.
template <class Number>
HWY_INLINE uint32_t largest(const Number* src, int64_t count) {
  const DU32 du32;
  VU32 most = hn::Zero(du32);
  for (int64_t i = 0; i < count; i += static_cast<int64_t>(kLanes))
    most = hn::Max(most, hn::And(hn::BitCast(du32, load(src + i)), hn::Set(du32, kMagnitude)));
  HWY_ALIGN uint32_t lanes[kLanes];
  hn::Store(most, du32, lanes);
  return *std::max_element(lanes, lanes + kLanes);
}

template <class Number>
HWY_INLINE void divide(F8E4m3* dst, const Number* src, int64_t count, float scale) {
  const VF divisor = hn::Set(DF(), scale);
  for (int64_t i = 0; i < count; i += static_cast<int64_t>(kLanes))
    hn::StoreU(hn::TruncateTo(DU8(), to_e4m3(hn::Div(load(src + i), divisor))), DU8(),
               reinterpret_cast<uint8_t*>(dst + i));
}

// Whole vectors where they are, the rest by way of padded ones: nothing past it is read or written.
template <class Number>
float quantize(F8E4m3* dst, const Number* src, int64_t count) {
  const int64_t whole = count - count % static_cast<int64_t>(kLanes), rest = count - whole;
  HWY_ALIGN Number last[kLanes] = {};
  HWY_ALIGN F8E4m3 last_codes[kLanes];
  std::copy_n(src + whole, rest, last);
  const uint32_t most = std::max(largest(src, whole), largest(last, rest));
  if (most > kInfinity) {
    std::fill_n(dst, count, F8E4m3::from_bits(0x7f));
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float scale = std::max(std::bit_cast<float>(most), kLeastAmax) / F8E4m3::kMax;
  divide(dst, src, whole, scale);
  divide(last_codes, last, rest, scale);
  std::copy_n(last_codes, rest, dst + whole);
  return scale;
}

float quantize_f32(F8E4m3* dst, const float* src, int64_t count) {
  return quantize(dst, src, count);
}
float quantize_bf16(F8E4m3* dst, const Bf16* src, int64_t count) {
  return quantize(dst, src, count);
}

}  // namespace switchyard::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace switchyard::cpu {
namespace {

HWY_EXPORT(quantize_f32);
HWY_EXPORT(quantize_bf16);

}  // namespace

void quantize_rows_fast(const QuantizeRows& op, ThreadPool& pool) {
  const int64_t hidden = op.src.dim(1), num_groups = op.scales.dim(1);
  const int64_t num_rows = op.num_rows.present() ? op.num_rows.as<int32_t>()[0] : op.src.dim(0);
  const auto of_f32 = HWY_DYNAMIC_DISPATCH(quantize_f32);
  const auto of_bf16 = HWY_DYNAMIC_DISPATCH(quantize_bf16);
  for_each_row(num_rows, pool, [&](int64_t r) {
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t first = r * hidden + g * op.group;
      const int64_t count = std::min(op.group, hidden - g * op.group);
      F8E4m3* dst = op.dst.as<F8E4m3>() + first;
      op.scales.as<float>()[r * num_groups + g] =
          op.src.dtype == DType::F32 ? of_f32(dst, op.src.as<float>() + first, count)
                                     : of_bf16(dst, op.src.as<Bf16>() + first, count);
    }
  });
}

void quantize_activated_fast(const QuantizeActivated& op, ThreadPool& pool) {
  const int64_t width = op.dst.dim(1), num_groups = op.scales.dim(1);
  const auto of_f32 = HWY_DYNAMIC_DISPATCH(quantize_f32);
  for_each_row_of(op.groups, pool, [&](int64_t r) {
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t first = g * kQuantGroup, count = std::min(kQuantGroup, width - first);
      float values[kQuantGroup];
      activate_group(op, values, r, first, count);
      op.scales.as<float>()[r * num_groups + g] =
          of_f32(op.dst.as<F8E4m3>() + r * width + first, values, count);
    }
  });
}

}  // namespace switchyard::cpu
#endif
