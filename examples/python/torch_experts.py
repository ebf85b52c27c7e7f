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

# [fp8]
in_fp8 = switchyard.torch.MoE(H, I, E, K, renormalize=True, expert_dtype=torch.float8_e4m3fn)
for name in ("gate_up_proj", "down_proj"):
    weight = getattr(moe.experts, name).detach().float().unflatten(1, (-1, 128)).unflatten(3, (-1, 128))
    scales = weight.abs().amax((2, 4), keepdim=True) / 448
    getattr(in_fp8.experts, name).copy_((weight / scales).flatten(3).flatten(1, 2))
    getattr(in_fp8.experts, f"{name}_scale_inv").copy_(scales[:, :, 0, :, 0])
# [fp8]
in_fp8.gate.load_state_dict(moe.gate.state_dict())
with torch.no_grad():
    of_fp8 = in_fp8(hidden)
    exact = moe(hidden).double()
assert 0 < (of_fp8.double() - exact).norm() / exact.norm() < 0.1

assert output.shape == rows.shape == hidden.shape and output.isfinite().all() and rows.isfinite().all()
