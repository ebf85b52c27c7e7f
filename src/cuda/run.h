// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/run.h -- the CUDA form of every operation of ops/ops.h: a specialisation each, in the
// operation's own file. Linking names one that is missing.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/ops.h"

namespace switchyard::cuda {

template <class Op>
void run(const Op& op, cudaStream_t stream);

// grouped_gemm/grouped_gemm.cu: TMA and wgmma, compute capability 9.0 exactly. The backend chooses
// between this and cuBLAS.
// Of the configuration that it chooses, as Backend has it.
int rows_of_tile(const GroupedGemm& gemm, int num_sms);
void grouped_gemm_hopper(const GroupedGemm& gemm, int num_sms, cudaStream_t stream);
void scaled_gemm_hopper(const ScaledGemm& gemm, int num_sms, cudaStream_t stream);
// router_logits.cu: on so many multiprocessors where the grouped GEMM takes over.
void router_logits(const RouterLogits& op, int num_sms, cudaStream_t stream);
// choose_experts.cu: as one kernel or as two.
void choose_experts(const ChooseExperts& op, int num_sms, cudaStream_t stream);

}  // namespace switchyard::cuda
