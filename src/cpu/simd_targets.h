// src/cpu/simd_targets.h -- the instruction sets that fast forms are compiled for. Before Highway.
//
// Four are enough: the baseline (in portable 128-bit form, not scalar), SSE4, AVX2 and AVX-512, or
// NEON. Vectors without a fixed size cannot stand in arrays.
#pragma once

#define HWY_BROKEN_EMU128 0
#define HWY_DISABLED_TARGETS \
  (HWY_SCALAR | HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
