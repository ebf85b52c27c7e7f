// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/gemm_table.cc -- written by scripts/gemm_table.py from bench/results. Not edited by hand.
#include "strategy/gemm_choice.h"

namespace switchyard {
namespace {

// clang-format off
constexpr TunedGemm kNVIDIAH200[] = {
    // qwen3-next-80b-a3b, bench/results/h200_tune.json, 2026-12-01
    {OperandKind::Bf16, 512, 2048, 512, false, 1280, "32x64x128, 3 stages, cluster of 1"},
    {OperandKind::Bf16, 512, 1024, 2048, true, 10240, "32x64x128, 3 stages, cluster of 1"},
    {OperandKind::Bf16, 512, 2048, 512, false, 10240, "128x128x64, 5 stages, cluster of 1"},
};
constexpr TunedGpu kGpus[] = {
    {"NVIDIA H200", 132, 4381.0, kNVIDIAH200},
};
// clang-format on

}  // namespace

std::span<const TunedGpu> tuned_gpus() {
  return kGpus;
}

}  // namespace switchyard
