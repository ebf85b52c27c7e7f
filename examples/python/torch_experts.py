# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/torch_experts.py -- the experts of a layer as an operation of PyTorch, and a block as a module."""
import torch

H, I, E, K, T = 256, 128, 8, 2, 20
torch.manual_seed(0)
hidden = torch.randn(T, H).bfloat16()
gate_up, down = (torch.randn(E, 2 * I, H) / H**0.5).bfloat16(), (torch.randn(E, H, I) / I**0.5).bfloat16()
weights, ids = torch.randn(T, E).softmax(-1).topk(K)

# [operation]
import switchyard.torch

output = torch.ops.switchyard.fused_experts(hidden, gate_up, down, ids, weights, order="gate_up")
# [operation]

# [module]
moe = switchyard.torch.MoE(H, I, E, K, renormalize=True)
moe.load_state_dict({"gate.weight": torch.randn(E, H) / H**0.5, "experts.gate_up_proj": gate_up, "experts.down_proj": down})
with torch.no_grad():
    rows = torch.compile(moe, fullgraph=True, dynamic=True, backend="aot_eager")(hidden)
# [module]

assert output.shape == rows.shape == hidden.shape and output.isfinite().all() and rows.isfinite().all()
