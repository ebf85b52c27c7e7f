# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""A program of ranks for test_transformers.py: experts over the ranks beside the same experts in float64 in one process."""
import copy
import os

import switchyard
import switchyard.transformers
import test_transformers_fp8
import torch
import torch.distributed as dist
from cases import TOLERANCE
from switchyard.transformers import SwitchyardEP
from test_transformers import K, distance, make_experts
from torch.distributed.device_mesh import init_device_mesh
from transformers.distributed.expert_parallel import AllReduceEP

CLASSES = (("qwen3_moe", "Qwen3MoeExperts"), ("gpt_oss", "GptOssExperts"))  # as they are; interleaved, transposed, with biases


def routed(made, tokens, seed):
    """hidden, ids of the whole layer, weights."""
    width = made.down_proj.shape[2 if made.is_transposed else 1]
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator).to(torch.bfloat16)
    ids = torch.rand(tokens, made.num_experts, generator=generator).argsort(1)[:, :K]
    return hidden, ids, torch.rand(tokens, K, generator=generator).to(torch.bfloat16)


def part_of(made, rank, ranks):
    """The module with this rank's experts, as transformers leaves it inside a forward."""
    part = copy.deepcopy(made)
    part.num_experts = made.num_experts // ranks
    for name, parameter in list(part.named_parameters()):
        mine = parameter[rank * part.num_experts:(rank + 1) * part.num_experts].clone()
        setattr(part, name, torch.nn.Parameter(mine, requires_grad=False))
    part._is_expert_parallel = True
    return part


def check(experts, made, tokens, seed):
    hidden, ids, weights = routed(made, tokens, seed)
    ours = experts(hidden, ids, weights)
    assert ours.shape == hidden.shape and ours.dtype == torch.bfloat16
    if tokens:
        exact = copy.deepcopy(made).double()(hidden.double(), ids, weights.double())
        assert distance(ours, exact) <= TOLERANCE, (type(made).__name__, tokens, seed, distance(ours, exact))


def check_class(name, ep_mesh, no_tp):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    made = make_experts(f"transformers.models.{name[0]}.modeling_{name[0]}", name[1])
    part = part_of(made, rank, ranks)
    one_batch = SwitchyardEP(part, ep_mesh, ep_mesh)
    for tokens in (1, 2, 12, 200, 7):  # fewer than ranks; more than a layer holds at first
        check(one_batch, made, tokens, seed=tokens)
    own_batches = SwitchyardEP(part, ep_mesh, no_tp)
    for step in range(3):
        check(own_batches, made, tokens=(5 * rank + step) % 7, seed=10 * step + rank)

    for module in (made, part):
        module.down_proj = torch.nn.Parameter(2 * module.down_proj, requires_grad=False)
    check(one_batch, made, tokens=9, seed=9)

    part.config._experts_implementation = "switchyard"  # transformers' own way around experts of ours: ids of other ranks are sentinels
    check(AllReduceEP(part, ep_mesh, ep_mesh), made, tokens=11, seed=11)

    hidden, ids, weights = routed(made, 6, seed=6)
    hidden.requires_grad_()
    with torch.enable_grad():
        one_batch(hidden, ids, weights).float().sum().backward()
    assert hidden.grad.float().norm() > 0


def check_fp8(ep_mesh):
    made = test_transformers_fp8.made(scale_fmt="ue8m0")  # scales are copied
    numbers = test_transformers_fp8.fill(made)
    experts = SwitchyardEP(part_of(made, dist.get_rank(), dist.get_world_size()), ep_mesh, ep_mesh)
    for tokens in (1, 70, 12):
        hidden, ids, weights = test_transformers_fp8.routed(tokens, tokens)
        exact = test_transformers_fp8.by_definition(hidden, *numbers, ids, weights, test_transformers_fp8.swiglu)
        ours = experts(*test_transformers_fp8.as_torch(hidden, ids, weights))
        assert distance(ours, torch.from_numpy(exact)) <= TOLERANCE, (tokens, test_transformers_fp8.SEED)


def check_bound(ep_mesh, no_tp):
    """One rank's rows are too many: an error of every rank, and the layer goes on."""
    made = make_experts("transformers.models.qwen3_moe.modeling_qwen3_moe", "Qwen3MoeExperts")
    experts = SwitchyardEP(part_of(made, dist.get_rank(), dist.get_world_size()), ep_mesh, no_tp)
    experts.max_tokens = 4
    try:
        experts(*routed(made, 5 if dist.get_rank() == 1 else 4, seed=0))
    except switchyard.Error as error:
        assert ("max_tokens=4" if dist.get_rank() == 1 else "rank 1 refused") in str(error), error
    else:
        raise AssertionError("no error")
    check(experts, made, 4, seed=1)


def main():
    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    seed = [test_transformers_fp8.SEED]
    dist.broadcast_object_list(seed)
    test_transformers_fp8.SEED = seed[0]
    ep_mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("ep",))
    no_tp = init_device_mesh("cpu", (ranks, 1), mesh_dim_names=("fsdp", "tp"))["tp"]
    with torch.no_grad():
        for name in CLASSES:
            check_class(name, ep_mesh, no_tp)
        check_fp8(ep_mesh)
        check_bound(ep_mesh, no_tp)
    if os.environ["RANK"] == "0":
        print("experts over the ranks are those of one process")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
