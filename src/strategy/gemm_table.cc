// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/gemm_table.cc -- written by scripts/gemm_table.py from bench/results. Not edited by hand.
#include "strategy/gemm_choice.h"

namespace switchyard {

std::span<const TunedGpu> tuned_gpus() {
  return {};
}

}  // namespace switchyard
