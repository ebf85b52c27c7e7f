// src/cuda/gate_topk.cu
#include "cuda/gate_topk.cuh"

#include "base/checked.h"
#include "cuda/ops.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {

void gate_topk(Tensor ids, Tensor weights, ConstTensor logits, ConstTensor correction_bias,
               const GateConfig& gate, cudaStream_t stream) {
  const int64_t num_tokens = logits.dim(0), num_experts = logits.dim(1), top_k = ids.dim(1);
  const bool drops_groups = gate.num_groups > gate.num_groups_kept;
  const int64_t words = gate_words(num_experts, top_k, drops_groups ? gate.num_groups : 0);
  const size_t token_bytes = static_cast<size_t>(words) * sizeof(uint32_t);
  const GateTopkParams params{
      .ids = ids.as<int32_t>(),
      .weights = weights.as<float>(),
      .logits = logits.as<float>(),
      .bias = correction_bias.present() ? correction_bias.as<float>() : nullptr,
      .num_tokens = num_tokens,
      .num_experts = static_cast<int>(num_experts),
      .top_k = static_cast<int>(top_k),
      .num_groups = static_cast<int>(gate.num_groups),
      .num_groups_kept = static_cast<int>(gate.num_groups_kept),
      .words_per_token = static_cast<int>(words),
      .gate = gate};
  // The largest gates take a block per token.
  const int warps = kGateMaxWarps * token_bytes <= kDefaultSmemBytes ? kGateMaxWarps : 1;
  const size_t smem_bytes = static_cast<size_t>(warps) * token_bytes;
  allow_smem(gate_topk_kernel, smem_bytes);
  launch(gate_topk_kernel, ceil_div(num_tokens, warps), warps * 32, smem_bytes, stream, params);
}

}  // namespace switchyard::cuda
