// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/launch_gemm.h -- the grouped GEMM in a configuration that the caller names.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/expert_ops.h"
#include "ops/fp8_ops.h"
#include "strategy/gemm_choice.h"

namespace switchyard::cuda {

// The one that a call names, or the choice of the device's table or the rule. Where it is chosen, it
// takes no cluster that is larger than num_sms; make_executor looks at those that are named.
GemmConfig config_on_device(const GemmConfig* named, GemmShape shape, int num_sms);
// What grouped_gemm_hopper does once it has chosen. num_sms is at least config.cluster().
void launch_gemm(const GemmConfig& config, const GroupedGemm& gemm, int num_sms,
                 cudaStream_t stream);
void launch_gemm(const GemmConfig& config, const ScaledGemm& gemm, int num_sms,
                 cudaStream_t stream);

}  // namespace switchyard::cuda
