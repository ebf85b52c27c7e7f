# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""transformers' expert parallelism by layers over the ranks: DistributedConfig(ep_implementation="switchyard").

Rows travel to the ranks of their experts and back inside the layer: no rank reads a size back to the host. Where a
gradient is needed, transformers' all-to-all computes.
"""
from __future__ import annotations

import functools
import socket
from typing import Any, Optional

import torch
import torch.distributed as dist
from transformers.distributed.expert_parallel import AllToAllEP, EPImplementation, EPImplementationInterface

from . import _native
from .torch import _block
from .transformers import NAME, _needs_gradient, _plan, _weights

DEADLINE = 600.0  # seconds that a rank waits for its peers, as torch's process groups do


@functools.lru_cache(maxsize=None)
def _communicator(group: Any) -> _native.Communicator:
    """One for all layers of a process group. Collective."""
    size = dist.get_world_size(group)

    def gather(mine: Any) -> list[Any]:
        parts: list[Any] = [None] * size
        dist.all_gather_object(parts, mine, group=group)
        return parts

    name = socket.gethostname()
    one_host = len(set(gather(name))) == 1
    return _native.make_process_rank(dist.get_rank(group), size, gather, deadline=DEADLINE,
                                     address="127.0.0.1" if one_host else socket.gethostbyname(name))


@functools.lru_cache(maxsize=None)
def _memory(device: torch.device) -> tuple[_native.Backend, _native.SharedWorkspace]:
    """Of all layers of a device, whose calls follow each other."""
    backend = _native.make_cuda_backend(device.index or 0) if device.type == "cuda" else _native.make_cpu_backend()
    return backend, _native.SharedWorkspace(backend)


def _capacity(rows: int) -> int:
    """A power of two from 64 on: few sizes grow a layer."""
    return max(64, 1 << (rows - 1).bit_length())


class SwitchyardEP(EPImplementation):  # type: ignore[misc]  # transformers has no types
    """The layer of one module of experts.

    Ranks of a tensor-parallel group hold one batch: each has its share of the rows computed, and the shares are
    gathered. Where ranks of the expert group hold different batches, a rank's rows are at most `max_tokens`, which no
    rank asks the others for.
    """

    max_tokens = 8192

    def __init__(self, experts: torch.nn.Module, ep_mesh: Any, tp_mesh: Any) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        self.experts = experts
        self.with_gradient = AllToAllEP(experts, ep_mesh, tp_mesh)
        self.layer: Optional[_native.MoeLayer] = None
        self.made_of: tuple[Any, ...] = ()
        self.capacity = 0

    @torch.compiler.disable
    def __call__(self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        if _needs_gradient(self.experts, hidden_states, top_k_weights):
            result: torch.Tensor = self.with_gradient(hidden_states, top_k_index, top_k_weights)
            return result
        tokens, shares = len(hidden_states), self.tp_mesh.size()
        rows = -(-tokens // shares)
        first = self.tp_mesh.get_local_rank() * rows
        mine = slice(min(first, tokens), min(first + rows, tokens))
        output = hidden_states.new_empty(rows, hidden_states.shape[-1])
        self._forward(rows, output[:mine.stop - mine.start], hidden_states[mine], top_k_index[mine], top_k_weights[mine])
        if shares == 1:
            return output
        gathered = output.new_empty(rows * shares, output.shape[-1])
        dist.all_gather_into_tensor(gathered, output, group=self.tp_mesh.get_group())
        return gathered[:tokens]

    def _forward(self, rows: int, output: torch.Tensor, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> None:
        bound = rows if self.shares_batch else self.max_tokens  # equal on every rank
        layer = self._layer(ids.shape[1], hidden.device)
        if bound > self.capacity:
            self.capacity = _capacity(bound)
            layer.grow(self.capacity)
        layer.forward(hidden.contiguous(), ids=ids.contiguous(), weights=weights.to(torch.float32).contiguous(), output=output,
                      max_tokens=bound)

    def _layer(self, top_k: int, device: torch.device) -> _native.MoeLayer:
        """Made at the first call, when weights are loaded, and again where they are others. Collective."""
        plan = _plan(self.experts)
        w = _weights(self.experts, plan)
        made_of = (top_k, *(None if t is None else t.data_ptr() for t in w))
        if self.layer is None or made_of != self.made_of:
            ranks = self.ep_mesh.size()
            config = _native.MoeConfig(
                hidden=w.w2.shape[1], intermediate=w.w2.shape[2], num_experts=ranks * w.w2.shape[0], top_k=top_k,
                expert_bias=w.b1 is not None, activation=_native.Activation(plan.activation.name, plan.activation.alpha, plan.activation.limit))
            block = _block("weight_block_size", plan.block)
            weights = _native.LayerWeights(w.w1.detach(), w.w2.detach(), _native.GateUpOrder.GateUp, b1=w.b1, b2=w.b2,
                                           w1_scales=w.w1_scales, w2_scales=w.w2_scales, w1_block=block, w2_block=block)
            backend, workspace = _memory(device)
            self.layer = _native.MoeLayer(config, weights, max_tokens=64, backend=backend, shared_workspace=workspace,
                                          communicator=_communicator(self.ep_mesh.get_group()))
            self.made_of, self.capacity = made_of, 64
        return self.layer


EPImplementationInterface.register(NAME, SwitchyardEP)
