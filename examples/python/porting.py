# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/porting.py -- calls of fused_moe kernels, and what they become."""
import torch

import switchyard.torch

H, I, E, K, T = 256, 128, 8, 2, 20
torch.manual_seed(0)
hidden = torch.randn(T, H).bfloat16()
w13, w2 = (torch.randn(E, 2 * I, H) / H**0.5).bfloat16(), (torch.randn(E, H, I) / I**0.5).bfloat16()
topk_weights, topk_ids = torch.randn(T, E).softmax(-1).topk(K)
topk_ids = topk_ids.int()
w31 = torch.cat([w13[:, I:], w13[:, :I]], 1)

# [calls]
fused_experts = torch.ops.switchyard.fused_experts

# vLLM: fused_experts(hidden, w13, w2, topk_weights, topk_ids)
# SGLang: fused_experts_impl(hidden, w13, w2, topk_weights, topk_ids)
a = fused_experts(hidden, w13, w2, topk_ids, topk_weights, order="gate_up")

# FlashInfer: cutlass_fused_moe(hidden, topk_ids, topk_weights, w31, w2, torch.bfloat16, quant_scales=[], output=b)
b = torch.empty_like(hidden)
torch.ops.switchyard.fused_experts_out(hidden, w31, w2, topk_ids, topk_weights, order="up_gate", out=b)

# expert parallel, the last half of the experts: vLLM's expert_map; SGLang's ids of this rank, -1 for others
expert_map = torch.tensor([-1] * (E // 2) + list(range(E // 2)), dtype=torch.int32)
c = fused_experts(hidden, w13[E // 2:], w2[E // 2:], topk_ids, topk_weights, order="gate_up", expert_map=expert_map)
d = fused_experts(hidden, w13[E // 2:], w2[E // 2:], expert_map[topk_ids], topk_weights, order="gate_up")

# SwiGLU with clamped gate and up, as of gpt-oss: alpha, limit; SGLang: gemm1_alpha, gemm1_limit, gate_up_interleaved=False
e = fused_experts(hidden, w13, w2, topk_ids, topk_weights, order="gate_up", activation="clamped_swiglu", alpha=1.702, limit=7.0)
# [calls]

assert torch.equal(a, b) and torch.equal(c, d) and not torch.equal(a, e) and e.isfinite().all()
