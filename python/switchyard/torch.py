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
import os
from typing import Any, Callable, Iterable, NamedTuple, Optional, Sequence

import torch

from . import _native
from ._errors import ShapeMismatch, Unsupported

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
    for name, value in (("hidden", hidden), ("w1", w1), ("w2", w2), ("ids", ids), ("weights", weights), ("out", out)):
        _check_tensor(name, value)
    if weights.dtype is not torch.float32:  # .to() of the same dtype takes 2 us
        weights = weights.to(torch.float32)
    _native.fused_experts(
        hidden.contiguous(), w1, w2, ids.contiguous(), weights.contiguous(), order=_order(order),
        activation=_activation(activation, alpha, limit), b1=b1, b2=b2, expert_map=expert_map,
        out_of_range_ids=_OUT_OF_RANGE[no_expert_out_of_range], max_tokens=max_tokens, w1_scales=w1_scales,
        w2_scales=w2_scales, w1_block=_block("w1_block", w1_block), w2_block=_block("w2_block", w2_block), output=out)


def _fused_experts(hidden: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    _check_tensor("hidden", hidden)
    out = torch.empty_like(hidden) if hidden.is_contiguous() else torch.empty_like(hidden, memory_format=torch.contiguous_format)
    _fused_experts_out(hidden, *arguments, **options, out=out)
    return out


def _check_tensor(name: str, value: Optional[torch.Tensor]) -> None:
    """A schema's Tensor may be None."""
    if value is None:
        raise ShapeMismatch(f"fused_experts: {name}=None, need a tensor. Pass one.")


def _check_one_device(hidden: torch.Tensor, values: Iterable[Any]) -> None:
    """One tensor on meta is enough for torch to compute shapes only, and to leave memory as it is."""
    _check_tensor("hidden", hidden)
    for value in values:
        if isinstance(value, torch.Tensor) and value.device != hidden.device:
            raise ShapeMismatch(f"fused_experts: a tensor is on {value.device}, hidden on {hidden.device}. Copy it first.")


def _fake(hidden: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    _check_one_device(hidden, (*arguments, *options.values()))
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


def _fake_out(hidden: torch.Tensor, *arguments: Any, **options: Any) -> None:
    _check_one_device(hidden, (*arguments, *options.values()))


def _check_no_gradient(name: str, values: Iterable[Any]) -> None:
    """A gradient that would be missing is an error."""
    if torch.is_grad_enabled() and any(isinstance(value, torch.Tensor) and value.requires_grad for value in values):
        raise Unsupported(f"{name}: a tensor requires grad, and no gradient is computed here. "
                          "Call under torch.no_grad().")


def _checked(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        _check_no_gradient(name, (*arguments, *options.values()))
        return operation(*arguments, **options)

    return call


def _without_gradient(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    def below(*arguments: Any, **options: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments, **options)

    return _checked(name, below)


def _keeping_errors(operation: Callable[..., Any], result_of_error: Callable[[], Any]) -> Callable[..., Any]:
    """For a caller in C++, which has no place for an exception: it fetches what is kept here."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return operation(*arguments, **options)
        except BaseException as error:
            _native._keep_torch_error(error)  # type: ignore[attr-defined]
            return result_of_error()

    return call


class _Operation(NamedTuple):
    name: str
    output: str  # after the tensors of the schema
    result: str
    implementation: Callable[..., Any]
    fake: Callable[..., Any]
    result_of_error: Callable[[], Any]

    def schema(self, name: str) -> str:
        return f"{name}({_TENSORS}{self.output}, {_OPTIONS}) -> {self.result}"


_OPERATIONS = (_Operation("fused_experts", "", "Tensor", _fused_experts, _fake, lambda: torch.empty(0)),
               _Operation("fused_experts_out", ", Tensor(a!) out", "()", _fused_experts_out, _fake_out, lambda: None))
# The versions whose errors of Python in C++ are as python/src/torch_op.cc makes them.
_KNOWN = ((2, 11), (2, 15))


def _why_not_cpp() -> str:
    """'' where kernels of C++ can be registered, and their errors arrive as they are."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if not _KNOWN[0] <= version <= _KNOWN[1]:
        return f"torch {torch.__version__}, C++ is known to fit {'.'.join(map(str, _KNOWN[0]))} to {'.'.join(map(str, _KNOWN[1]))}"
    if os.environ.get("SWITCHYARD_TORCH_OPS") == "python":
        return "SWITCHYARD_TORCH_OPS=python"
    if missing := _native._load_torch():  # type: ignore[attr-defined]
        return f"libtorch has no {missing}"
    _LIBRARY.define("raise_kept_error() -> ()")
    _native._implement_torch_probe()  # type: ignore[attr-defined]
    sent = Unsupported("probe")
    _native._keep_torch_error(sent)  # type: ignore[attr-defined]
    try:
        torch.ops.switchyard.raise_kept_error()
    except Exception as error:
        return "" if error is sent else f"errors arrive as {type(error).__name__}"
    return "errors do not arrive"


def _define(operation: _Operation) -> None:
    _LIBRARY.define(operation.schema(operation.name), tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag))


def _implement_in_python(operation: _Operation, keys: Iterable[str]) -> None:
    for key in keys:
        _LIBRARY.impl(operation.name, operation.implementation, key)
    torch.library.register_fake(f"switchyard::{operation.name}", operation.fake, lib=_LIBRARY)
    default = getattr(torch.ops.switchyard, operation.name).default
    _LIBRARY.impl(operation.name, _without_gradient(operation.name, default), "Autograd")


def _implement_for_cpp(operation: _Operation) -> None:
    """What C++ leaves to Python: any call that is not plain, and shapes."""
    name = f"{operation.name}_python"
    _LIBRARY.define(operation.schema(name))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, _keeping_errors(_checked(operation.name, operation.implementation), operation.result_of_error), key)
    for each in (operation.name, name):
        _LIBRARY.impl(each, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"switchyard::{operation.name}", _checked(operation.name, operation.fake), lib=_LIBRARY)


def _register() -> str:
    why = _why_not_cpp()
    for operation in _OPERATIONS:
        _define(operation)
    keys = ["CPU", "CUDA"]
    if why:
        for operation in _OPERATIONS:
            _implement_in_python(operation, keys)
        return f"python: {why}"
    for key in _native._implement_torch_ops():  # type: ignore[attr-defined]
        keys.remove(key)
    for operation in _OPERATIONS:
        for key in keys:
            _LIBRARY.impl(operation.name, _checked(operation.name, operation.implementation), key)
        _implement_for_cpp(operation)
    return "c++"


# "c++", or "python: " and why: each call then costs some 10 us more of the host.
# SWITCHYARD_TORCH_OPS=python in the environment asks for it.
IMPLEMENTATION: str = _register()


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
