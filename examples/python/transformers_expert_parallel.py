# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/transformers_expert_parallel.py -- a model of transformers whose experts are layers over the ranks of
torchrun: rows travel to the ranks of their experts and back.

    torchrun --nproc-per-node 2 examples/python/transformers_expert_parallel.py     # transformers 5.24; the package accelerate
"""
import tempfile

import torch
import torch.distributed as dist
import transformers
from transformers.distributed import DistributedConfig

device = "cuda" if torch.cuda.is_available() else "cpu"
dist.init_process_group("nccl" if device == "cuda" else "gloo")
ranks = dist.get_world_size()
folder = [tempfile.mkdtemp()] if dist.get_rank() == 0 else [None]
dist.broadcast_object_list(folder)
(folder,) = folder
if dist.get_rank() == 0:  # a small model of random weights
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=128, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True)
    transformers.Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
dist.barrier()

# [use]
import switchyard.transformers  # ep_implementation="switchyard"

model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, distributed_config=DistributedConfig(
    tp_size=ranks, ep_size=ranks, ep_implementation="switchyard"))
# [use]

alone = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, experts_implementation="switchyard").to(model.device)
with torch.no_grad():
    for tokens in (12, 1, 200, 7):
        prompt = (torch.arange(tokens).unsqueeze(0) * 7 % 128).to(model.device)
        ours, theirs = model(prompt).logits, alone(prompt).logits
        assert (ours - theirs).norm() < 2e-2 * theirs.norm(), tokens  # attention is divided, too, and adds in another order
if dist.get_rank() == 0:
    print(f"{ranks} ranks, {model.model.layers[0].mlp.experts.num_experts} experts each")
dist.barrier()
dist.destroy_process_group()
