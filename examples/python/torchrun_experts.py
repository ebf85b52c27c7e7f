# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/torchrun_experts.py -- experts of a layer over the ranks of torchrun.

    torchrun --nproc-per-node 2 examples/python/torchrun_experts.py
"""
import os

import torch
import torch.distributed as dist

import switchyard.torch

H, I, E, K, T = 256, 128, 8, 2, 20
on_gpu = torch.cuda.device_count() >= int(os.environ["WORLD_SIZE"])  # NCCL wants a GPU for each
dist.init_process_group("nccl" if on_gpu else "gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
torch.manual_seed(0)  # the same rows and router on every rank
hidden = torch.randn(T, H).bfloat16().to(device)
w1, w2 = (torch.randn(E, 2 * I, H) / H**0.5).bfloat16().to(device), (torch.randn(E, H, I) / I**0.5).bfloat16().to(device)
weights, ids = (x.to(device) for x in torch.randn(T, E).softmax(-1).topk(K))

# [experts]
first, last = rank * E // ranks, (rank + 1) * E // ranks
mine = w1[first:last], w2[first:last]  # a program loads these alone
expert_map = torch.full((E,), -1, dtype=torch.int32, device=device)
expert_map[first:last] = torch.arange(last - first, dtype=torch.int32, device=device)

output = torch.ops.switchyard.fused_experts(hidden, *mine, ids, weights, order="gate_up", expert_map=expert_map).float()
dist.all_reduce(output)
# [experts]

whole = torch.ops.switchyard.fused_experts(hidden, w1, w2, ids, weights, order="gate_up").float()
assert (output - whole).norm() <= 4e-3 * whole.norm()
if rank == 0:
    print(f"{ranks} ranks, {last - first} experts each")
dist.barrier()
dist.destroy_process_group()
