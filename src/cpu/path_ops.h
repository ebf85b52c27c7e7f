// src/cpu/path_ops.h -- what stands around the experts and beside the gate. Contracts: ops/ops.h.
#pragma once

#include "cpu/thread_pool.h"
#include "ops/ops.h"

namespace switchyard::cpu {

void split_f32(Tensor dst, ConstTensor src);
void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids, ConstTensor weights,
                        int64_t num_experts, int64_t num_ids);
void norm_rows(const NormRows& norm, ThreadPool& pool);
void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights, ThreadPool& pool);
void add_rows(Tensor dst, ConstTensor src, const Addend& addend, ThreadPool& pool);

}  // namespace switchyard::cpu
