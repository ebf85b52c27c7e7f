// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/simd_targets.h -- the instruction sets that fast forms are compiled for. Before Highway.
//
// Four are enough: the baseline (in portable 128-bit form, not scalar), SSE4, AVX2 and AVX-512, or
// NEON. What is better than AVX-512 has a lower bit; of it only the dot product of bf16 is used, in
// a form of its own (instruction_set.h). Vectors without a fixed size cannot stand in arrays.
#pragma once

#define HWY_BROKEN_EMU128 0
#define HWY_DISABLED_TARGETS                                                                   \
  (HWY_SCALAR | HWY_SSSE3 | (HWY_AVX3 - 1) | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | \
   HWY_RVV)
