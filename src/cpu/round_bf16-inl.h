// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/round_bf16-inl.h -- Bf16(float) of tensor.h, a vector at a time. Once per instruction
// set.
#include <hwy/highway.h>

#include "switchyard/tensor.h"

#if defined(SWITCHYARD_CPU_ROUND_BF16_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef SWITCHYARD_CPU_ROUND_BF16_INL
#undef SWITCHYARD_CPU_ROUND_BF16_INL
#else
#define SWITCHYARD_CPU_ROUND_BF16_INL
#endif

HWY_BEFORE_NAMESPACE();
namespace switchyard::cpu::HWY_NAMESPACE {

// Rounds to nearest, ties to even; a NaN stays a NaN.
template <class D>
HWY_INLINE void store_bf16(D, hwy::HWY_NAMESPACE::Vec<D> value, Bf16* dst) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::RebindToUnsigned<D> du32;
  const hn::Rebind<uint16_t, D> du16;
  const auto bits = hn::BitCast(du32, value), upper = hn::ShiftRight<16>(bits);
  const auto half = hn::Add(hn::Set(du32, 0x7fffu), hn::And(upper, hn::Set(du32, 1u)));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, half));
  const auto quiet = hn::Or(upper, hn::Set(du32, 0x40u));
  const auto word = hn::IfThenElse(hn::RebindMask(du32, hn::IsNaN(value)), quiet, rounded);
  hn::StoreU(hn::TruncateTo(du16, word), du16, reinterpret_cast<uint16_t*>(dst));
}

}  // namespace switchyard::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
