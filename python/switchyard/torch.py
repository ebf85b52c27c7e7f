# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Switchyard for PyTorch: the operations switchyard::fused_experts and switchyard::fused_experts_out, and a module.

    import switchyard.torch
    output = torch.ops.switchyard.fused_experts(hidden, w1, w2, ids, weights, order="gate_up")

Experts in fp8: w1 and w2 float8_e4m3fn with w1_scales and w2_scales, f32 in blocks of 128 x 128, or of w1_block and
w2_block: [64, 128], [1, -1] for a scale per row, [-1, -1] for one per expert.

They run on CPU and CUDA, on torch's current stream, in torch.compile(fullgraph=True, dynamic=True) and, after one call
of the same capacity, in CUDA graphs. Memory of a call comes from torch's allocator on CUDA.
"""
from __future__ import annotations

import functools
from typing import Any, Callable, Optional, Sequence

import torch

from . import _native
from ._errors import Unsupported

ORDERS = {"gate_up": _native.GateUpOrder.GateUp, "up_gate": _native.GateUpOrder.UpGate}
_OUT_OF_RANGE = (_native.OutOfRangeIds.Error, _native.OutOfRangeIds.NoExpert)

# Alive as long as the module: an object that is freed takes its operations with it.
_LIBRARY = torch.library.Library("switchyard", "DEF")
_TENSORS = "Tensor hidden, Tensor w1, Tensor w2, Tensor ids, Tensor weights, *, str order"
_OPTIONS = (  # last: defaults at the end are not passed on
    "str activation='silu', float alpha=1.702, float limit=7.0, Tensor? b1=None, Tensor? b2=None, "
    "Tensor? expert_map=None, bool no_expert_out_of_range=False, int max_tokens=-1, Tensor? w1_scales=None, "
    "Tensor? w2_scales=None, int[]? w1_block=None, int[]? w2_block=None")
WHOLE = -1  # in w1_block and w2_block, [rows, cols] of the weights that share a scale: all rows, or all columns


@functools.lru_cache(maxsize=64)
def _activation(name: str, alpha: float, limit: float) -> _native.Activation:
    return _native.Activation(name, alpha, limit)


def _order(name: str) -> _native.GateUpOrder:
    if name not in ORDERS:
        raise Unsupported(f"fused_experts: order={name}, need {' or '.join(ORDERS)}. Arrange the weights.")
    return ORDERS[name]


def _block(name: str, size: Optional[Sequence[int]]) -> _native.ScaleBlock:
    """128 x 128 for None."""
    if size is None:
        return _native.ScaleBlock()
    if len(size) != 2:
        raise Unsupported(f"fused_experts: {name}={list(size)}, need rows and columns. Give two numbers, -1 for all.")
    rows, cols = (_native.ScaleBlock.WHOLE if n == WHOLE else n for n in size)
    return _native.ScaleBlock(rows=rows, cols=cols)


def _fused_experts_out(hidden: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, ids: torch.Tensor,
                       weights: torch.Tensor, *, order: str, activation: str = "silu", alpha: float = 1.702,
                       limit: float = 7.0, b1: Optional[torch.Tensor] = None, b2: Optional[torch.Tensor] = None,
                       expert_map: Optional[torch.Tensor] = None, no_expert_out_of_range: bool = False,
                       max_tokens: int = -1, w1_scales: Optional[torch.Tensor] = None,
                       w2_scales: Optional[torch.Tensor] = None, w1_block: Optional[Sequence[int]] = None,
                       w2_block: Optional[Sequence[int]] = None, out: torch.Tensor) -> None:
    if weights.dtype is not torch.float32:  # .to() of the same dtype takes 2 us
        weights = weights.to(torch.float32)
    _native.fused_experts(
        hidden.contiguous(), w1, w2, ids.contiguous(), weights.contiguous(), order=_order(order),
        activation=_activation(activation, alpha, limit), b1=b1, b2=b2, expert_map=expert_map,
        out_of_range_ids=_OUT_OF_RANGE[no_expert_out_of_range], max_tokens=max_tokens, w1_scales=w1_scales,
        w2_scales=w2_scales, w1_block=_block("w1_block", w1_block), w2_block=_block("w2_block", w2_block), output=out)


def _fused_experts(hidden: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    out = torch.empty_like(hidden) if hidden.is_contiguous() else torch.empty_like(hidden, memory_format=torch.contiguous_format)
    _fused_experts_out(hidden, *arguments, **options, out=out)
    return out


def _fake(hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


def _fake_out(*_: Any, **__: Any) -> None:
    return None


def _without_gradient(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    """A gradient that would be missing is an error."""

    def call(*arguments: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            for value in (*arguments, *options.values()):
                if isinstance(value, torch.Tensor) and value.requires_grad:
                    raise Unsupported(f"{name}: a tensor requires grad, and no gradient is computed here. "
                                      "Call under torch.no_grad().")
        with torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments, **options)

    return call


def _define(name: str, output: str, result: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _LIBRARY.define(f"{name}({_TENSORS}{output}, {_OPTIONS}) -> {result}", tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, implementation, key)
    torch.library.register_fake(f"switchyard::{name}", fake, lib=_LIBRARY)
    operation = getattr(torch.ops.switchyard, name).default
    _LIBRARY.impl(name, _without_gradient(name, operation), "Autograd")


_define("fused_experts", "", "Tensor", _fused_experts, _fake)
_define("fused_experts_out", ", Tensor(a!) out", "()", _fused_experts_out, _fake_out)


def check() -> None:
    """Waits for torch's current stream, then raises the first error of the operations: after a CUDA graph's replay, say."""
    stream = torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else 0
    _native.wait_fused_experts(stream)


class Router(torch.nn.Module):
    """weight [E, H]; hidden [T, H] -> logits f32 [T, E]."""

    def __init__(self, hidden: int, num_experts: int, **factory: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(num_experts, hidden, **factory))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden.float(), self.weight.float())


class Experts(torch.nn.Module):
    """gate_up_proj [E, 2I, H] (gate first) and down_proj [E, H, I]; of float8_e4m3fn also their scales."""

    def __init__(self, hidden: int, intermediate: int, num_experts: int, activation: str, *, dtype: torch.dtype = torch.bfloat16,
                 weight_block: Sequence[int] = (128, 128), device: Any = None) -> None:
        super().__init__()
        if dtype not in (torch.bfloat16, torch.float8_e4m3fn):
            raise Unsupported(f"Experts: dtype={dtype}, need torch.bfloat16 or torch.float8_e4m3fn. Convert the weights.")
        self.activation, self.block = activation, None if dtype is torch.bfloat16 else list(weight_block)
        for name, rows, cols in (("gate_up_proj", 2 * intermediate, hidden), ("down_proj", hidden, intermediate)):
            weight = torch.empty(num_experts, rows, cols, dtype=dtype, device=device)
            setattr(self, name, torch.nn.Parameter(weight, requires_grad=self.block is None))
            if self.block is None:
                self.register_parameter(f"{name}_scale_inv", None)
                continue
            scales = torch.empty(num_experts, *_scales_of(self.block, rows, cols), dtype=torch.float32, device=device)
            setattr(self, f"{name}_scale_inv", torch.nn.Parameter(scales, requires_grad=False))

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.switchyard.fused_experts(
            hidden, self.gate_up_proj, self.down_proj, ids, weights, order="gate_up", activation=self.activation,
            w1_scales=self.gate_up_proj_scale_inv, w2_scales=self.down_proj_scale_inv, w1_block=self.block, w2_block=self.block)
        return output


def _scales_of(block: Sequence[int], rows: int, cols: int) -> tuple[int, int]:
    """How many scales a matrix has."""
    of = _block("weight_block", block)
    return -(-rows // min(of.rows, rows)), -(-cols // min(of.cols, cols))


class MoE(torch.nn.Module):
    """The MoE block of Mixtral, Qwen3-MoE and their kin, for inference: softmax, top-k, experts.

    The names of its state_dict are those of transformers 5: gate.weight bf16 [E, H], experts.gate_up_proj bf16 [E, 2I, H],
    experts.down_proj bf16 [E, H, I]. With expert_dtype=torch.float8_e4m3fn the last two are fp8, and their scales are
    experts.gate_up_proj_scale_inv and experts.down_proj_scale_inv, f32 [E, ceil(rows / r), ceil(columns / c)] for
    weight_block=(r, c), -1 for all rows or columns; c is a multiple of 128 or -1. They are not initialised. Input and
    output bf16 [..., H]. Raises Unsupported where a gradient would be missing.
    """

    def __init__(self, hidden: int, intermediate: int, num_experts: int, top_k: int, *, activation: str = "silu",
                 renormalize: bool = False, scale: float = 1.0, expert_dtype: torch.dtype = torch.bfloat16,
                 weight_block: Sequence[int] = (128, 128), device: Any = None) -> None:
        super().__init__()
        _native.MoeConfig(hidden=hidden, intermediate=intermediate, num_experts=num_experts, top_k=top_k,
                          activation=_activation(activation, 1.702, 7.0)).validate()
        self.top_k, self.renormalize, self.scale = top_k, renormalize, scale
        self.gate = Router(hidden, num_experts, device=device, dtype=torch.bfloat16)
        self.experts = Experts(hidden, intermediate, num_experts, activation, dtype=expert_dtype, weight_block=weight_block,
                               device=device)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        weights, ids = self.gate(rows).softmax(-1).topk(self.top_k)
        if self.renormalize:
            weights = weights / weights.sum(-1, keepdim=True)
        output: torch.Tensor = self.experts(rows, ids, weights * self.scale)
        return output.view(hidden.shape)
