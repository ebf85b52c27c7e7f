// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/scaled_gemm.cc -- what has no kernel yet says so.
#include "base/require.h"
#include "cuda/run.h"

namespace switchyard::cuda {

template <>
void run(const ScaledGemm& op, cudaStream_t) {
  throw Error(Errc::Unsupported,
              cat(op.name,
                  ": device=cuda, experts in f8_e4m3 run on the CPU. Use its backend, or "
                  "weights in bf16."));
}

}  // namespace switchyard::cuda
