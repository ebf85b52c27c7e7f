// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/gate_topk.cu
#include "cuda/gate_topk.cuh"

#include "base/checked.h"
#include "cuda/run.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {
namespace {

template <class T>
const T* data_of(ConstTensor t) {
  return t.present() ? t.as<T>() : nullptr;
}

GateExtras extras_of(const GateTopk& g) {
  return {.shared_weights = g.shared_weights.present() ? g.shared_weights.as<float>() : nullptr,
          .row_scale = data_of<float>(g.row_scale),
          .logit_bias = data_of<float>(g.bias),
          .expert_scale = data_of<float>(g.expert_scale),
          .token_ids = g.token_ids.data,
          .token_experts = data_of<int32_t>(g.token_experts),
          .num_token_ids = g.token_experts.present() ? g.token_experts.dim(0) : 0,
          .num_shared = g.shared_weights.present() ? static_cast<int>(g.shared_weights.dim(1)) : 0,
          .num_parts = g.logit_parts,
          .wide_token_ids = g.token_ids.dtype == DType::I64};
}

}  // namespace

bool is_plain(const GateTopk& g) {
  return g.logit_parts == 1 && g.gate.logit_softcap == 0 && !g.shared_weights.present() &&
         !g.row_scale.present() && !g.bias.present() && !g.expert_scale.present() &&
         !g.token_experts.present();
}

GateTopkParams params_of(const GateTopk& op) {
  const GateExtras extras = extras_of(op);
  const int64_t top_k = op.ids.dim(1);
  const int64_t num_experts = op.logits.dim(1) / op.logit_parts - extras.num_shared;
  const bool drops_groups = op.gate.num_groups > op.gate.num_groups_kept;
  return {.ids = op.ids.as<int32_t>(),
          .weights = op.weights.as<float>(),
          .logits = op.logits.as<float>(),
          .bias = data_of<float>(op.correction_bias),
          .num_tokens = op.ids.dim(0),
          .num_experts = static_cast<int>(num_experts),
          .top_k = static_cast<int>(top_k),
          .num_groups = static_cast<int>(op.gate.num_groups),
          .num_groups_kept = static_cast<int>(op.gate.num_groups_kept),
          .words_per_token = static_cast<int>(
              gate_words(num_experts, top_k, drops_groups ? op.gate.num_groups : 0)),
          .gate = op.gate,
          .extras = extras,
          .slots = SlotsView(op.slots)};
}

template <>
void run(const GateTopk& op, cudaStream_t stream) {
  const GateTopkParams params = params_of(op);
  const size_t token_bytes = static_cast<size_t>(params.words_per_token) * sizeof(uint32_t);
  // The largest gates take a block per token.
  const int warps = kGateMaxWarps * token_bytes <= kDefaultSmemBytes ? kGateMaxWarps : 1;
  const size_t smem_bytes = static_cast<size_t>(warps) * token_bytes;
  const auto kernel = is_plain(op) ? gate_topk_kernel<false> : gate_topk_kernel<true>;
  allow_smem(kernel, smem_bytes);
  launch(kernel, ceil_div(params.num_tokens, warps), warps * 32, smem_bytes, stream, params);
}

}  // namespace switchyard::cuda
