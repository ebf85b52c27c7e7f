# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Switchyard inside transformers: experts_implementation="switchyard".

    import switchyard.transformers
    switchyard.transformers.use(model)

or, after the import, AutoModelForCausalLM.from_pretrained(..., experts_implementation="switchyard"); over ranks, with
a transformers that has it, distributed_config=DistributedConfig(..., ep_implementation="switchyard").
"""
from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from typing import Any, Callable, NamedTuple, Optional

import torch
from transformers.integrations import finegrained_fp8
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface

from . import torch as _torch  # the operations
from ._errors import Unsupported

NAME = "switchyard"
TRAINING = ("grouped_mm", "refuse")


# ---- the activation of a class, by its numbers


def _clamped(x: torch.Tensor, limit: float) -> torch.Tensor:
    return x.clamp(-limit, limit)


_GATED: dict[str, Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]] = {
    "silu": lambda g, u, a, m: u * torch.nn.functional.silu(g),
    "gelu": lambda g, u, a, m: u * torch.nn.functional.gelu(g),
    "gelu_tanh": lambda g, u, a, m: u * torch.nn.functional.gelu(g, approximate="tanh"),
    "clamped_swiglu": lambda g, u, a, m: (_clamped(u, m) + 1) * g.clamp(max=m) * torch.sigmoid(a * g.clamp(max=m)),
    "silu_of_clamped": lambda g, u, a, m: _clamped(u, m) * torch.nn.functional.silu(g.clamp(max=m)),
    "clamped_silu": lambda g, u, a, m: _clamped(u, m) * torch.nn.functional.silu(g).clamp(max=m),
    "situ": lambda g, u, a, m: a * torch.tanh(g / a) * torch.sigmoid(g) * m * torch.tanh(u / m),
    "relu2_gated": lambda g, u, a, m: u * torch.relu(g) ** 2,
}
_WITH_ALPHA = ("clamped_swiglu", "situ")
_WITH_LIMIT = (*_WITH_ALPHA, "silu_of_clamped", "clamped_silu")


@dataclasses.dataclass(frozen=True)
class _Activation:
    name: str
    alpha: float = 1.702
    limit: float = 7.0


def _numbers(module: Any) -> list[float]:
    """What may be alpha or limit of its activation: every positive number of the module and of its act_fn."""
    act_fn = getattr(module, "act_fn", None)
    parts = [module, *(act_fn.modules() if isinstance(act_fn, torch.nn.Module) else ())]
    values = (value for part in parts for value in vars(part).values() if type(value) in (int, float) and value > 0)
    return sorted({1.702, 7.0, *map(float, values)})


def _probes() -> tuple[torch.Tensor, torch.Tensor]:
    """gate and up [64, 8], f64: of either sign, small ones and such as no clamp lets pass."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-2, 3, 64, dtype=torch.float64).unsqueeze(1)
    gate, up = (torch.randn(64, 8, generator=generator, dtype=torch.float64) * sizes for _ in range(2))
    return gate, up[torch.randperm(64, generator=generator)]


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Up to the rounding of f32, which some classes compute in whatever they are given."""
    return a.shape == b.shape and bool(torch.allclose(a, b.to(a.dtype), rtol=1e-5, atol=1e-5))


def _activation_of(module: Any) -> Optional[_Activation]:
    """What stands between the GEMMs, found by calling it; a name in a config may mean another formula."""
    gate, up = _probes()
    with torch.no_grad():
        if not module.has_gate:
            return _Activation("relu2") if _equal(module.act_fn(gate.clone()), torch.relu(gate) ** 2) else None
        both = torch.cat([gate, up], -1) if module.is_concatenated else torch.stack([gate, up], -1).flatten(-2)
        result = module._apply_gate(both)
        numbers = _numbers(module)
        for name, formula in _GATED.items():
            for alpha in numbers if name in _WITH_ALPHA else [1.702]:
                for limit in numbers if name in _WITH_LIMIT else [7.0]:
                    if _equal(result, formula(gate, up, alpha, limit)):
                        return _Activation(name, alpha, limit)
    return None


# ---- one module of experts


def _is_experts(module: torch.nn.Module) -> bool:
    """Whether its class has the interface of transformers' use_experts_implementation."""
    return all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "is_concatenated", "config"))


def _up_name(module: Any) -> str:
    return "gate_up_proj" if module.has_gate else "up_proj"


def _is_fp8(module: Any) -> bool:
    return isinstance(module, finegrained_fp8.FP8Experts)


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _why_not_fp8(module: Any, w1: torch.Tensor, w2: torch.Tensor) -> Optional[str]:
    """What of its weights, scales or rows is none of Switchyard's fp8; None if all is."""
    if w1.dtype != torch.float8_e4m3fn or w2.dtype != torch.float8_e4m3fn:
        return f"experts are {_called(w1.dtype)}, need float8_e4m3fn. Dequantise the model."
    if module.activation_scheme != "dynamic":
        return f"rows have scales of the checkpoint (activation_scheme={module.activation_scheme}), need dynamic."
    if module.block_size is None:
        return "a matrix has one scale (weight_block_size=None), need blocks of 128 x 128."
    rows, cols = module.block_size
    if cols % 128:
        return f"weight_block_size=({rows}, {cols}), need a multiple of 128 columns."
    for name, weight in ((_up_name(module), w1), ("down_proj", w2)):
        scales = getattr(module, name + "_scale_inv")
        if scales.dtype not in _SCALES:
            return f"scales are {_called(scales.dtype)}, need {' or '.join(map(_called, _SCALES))}."
        wanted = (len(weight), *_torch._scales_of(module.block_size, *weight.shape[1:]))
        if scales.shape != wanted:
            return f"{name}_scale_inv is {list(scales.shape)}, need {list(wanted)} for blocks of {rows} x {cols}."
    if w1.is_cuda and torch.cuda.get_device_capability(w1.device) != (9, 0):
        return "the GPU has not compute capability 9.0. Dequantise the model."
    if w1.is_cuda and (w2.shape[1] % 16 or w2.shape[2] % 16):
        return f"H={w2.shape[1]}, I={w2.shape[2]}, need multiples of 16 in fp8 on a GPU. Dequantise the model."
    return None


_SCALES = (torch.float32, torch.float8_e8m0fnu)


def _why_not(module: Any) -> Optional[str]:
    """Why the experts of a module cannot be run; None if they can."""
    name = type(module).__name__
    if name.startswith("Mxfp4") or not hasattr(module, _up_name(module)):
        return f"{name} has quantised experts, need bf16, or fp8 in blocks. Dequantise the model."
    w1, w2 = getattr(module, _up_name(module)), module.down_proj
    if _is_fp8(module):
        if reason := _why_not_fp8(module, w1, w2):
            return reason
    elif w1.dtype != torch.bfloat16 or w2.dtype != torch.bfloat16:
        return f"experts are {_called(w1.dtype)}, need bfloat16. Load the model with dtype=torch.bfloat16."
    if getattr(module, "has_post_expert_norm", False):
        return "each expert's row is normalised before the sum, which Switchyard does not do."
    h, i = (w2.shape[2], w2.shape[1]) if module.is_transposed else (w2.shape[1], w2.shape[2])
    if h % 8 or i % 8:
        return f"H={h}, I={i}, need multiples of 8."
    if w1.is_meta:
        return "weights are on the meta device. Load them first."
    if _activation_of(module) is None:
        return "its activation is none of Switchyard's."
    return None


class _Weights(NamedTuple):
    """As kernels read them, or as a module holds them."""

    w1: torch.Tensor
    w2: torch.Tensor
    b1: Optional[torch.Tensor] = None
    b2: Optional[torch.Tensor] = None
    w1_scales: Optional[torch.Tensor] = None
    w2_scales: Optional[torch.Tensor] = None


@dataclasses.dataclass
class _Plan:
    """What is known of a module, and copies of weights that kernels do not read as they are."""

    activation: _Activation
    training: str
    block: Optional[list[int]] = None  # of fp8: the weights that share a scale
    seen: tuple[Any, ...] = ()
    weights: Optional[_Weights] = None


def _stored(module: Any) -> _Weights:
    """Those in fp8 without a gradient, whatever they say: they have none in transformers' own experts, either."""
    up = _up_name(module)
    if _is_fp8(module):
        names = (up, "down_proj", up + "_scale_inv", "down_proj_scale_inv")
        w1, w2, scales1, scales2 = (t.detach() if t.requires_grad else t for t in (getattr(module, name) for name in names))
        return _Weights(w1, w2, None, None, scales1, scales2)
    if module.has_bias:
        return _Weights(getattr(module, up), module.down_proj, getattr(module, up + "_bias"), module.down_proj_bias)
    return _Weights(getattr(module, up), module.down_proj)


def _rows_in_halves(x: torch.Tensor) -> torch.Tensor:
    """Gate and up in turns become gate, then up: of dimension 1."""
    return torch.cat([x[:, ::2], x[:, 1::2]], 1)


def _as_f32(x: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
    return None if x is None else x.float().contiguous()


def _arranged(module: Any) -> _Weights:
    stored = _stored(module)
    w1, w2, b1 = stored.w1, stored.w2, stored.b1
    if module.is_transposed:
        w1, w2 = w1.transpose(1, 2), w2.transpose(1, 2)
    if module.has_gate and not module.is_concatenated:
        w1, b1 = _rows_in_halves(w1), None if b1 is None else _rows_in_halves(b1)
    return _Weights(w1.contiguous(), w2.contiguous(), *map(_as_f32, (b1, *stored[3:])))


def _is_arranged(module: Any) -> bool:
    return (not module.is_transposed and not module.has_bias and (module.is_concatenated or not module.has_gate)
            and not (_is_fp8(module) and module.down_proj_scale_inv.dtype != torch.float32))


def _weights(module: Any, plan: _Plan) -> _Weights:
    """As kernels read them; a copy is made again where what was copied has changed."""
    if _is_arranged(module):
        return _stored(module)
    if torch.compiler.is_compiling():  # breaks the graph, and then it is not
        raise Unsupported(f"transformers: {type(module).__name__}: its weights are copied, and a whole graph would not see "
                          "that they change. Compile without fullgraph=True.")
    seen = tuple(None if t is None else (t.data_ptr(), t._version) for t in _stored(module))
    if plan.weights is None or seen != plan.seen:
        with torch.no_grad():
            plan.weights, plan.seen = _arranged(module), seen
    return plan.weights


def _plan(module: Any, training: str = TRAINING[0]) -> _Plan:
    plan: Optional[_Plan] = module.__dict__.get("_switchyard_plan")
    if plan is None:
        if torch.compiler.is_compiling():
            raise Unsupported(f"transformers: {type(module).__name__}: nothing is known of its activation and weights yet, which a "
                              "whole graph cannot find. Call switchyard.transformers.use(model) before torch.compile.")
        if reason := _why_not(module):
            raise Unsupported(f"transformers: {type(module).__name__}: {reason}")
        activation = _activation_of(module)
        assert activation is not None
        plan = module.__dict__["_switchyard_plan"] = _Plan(activation, training, list(module.block_size) if _is_fp8(module) else None)
    return plan


def _needs_gradient(module: Any, *tensors: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (*tensors, *_stored(module)))


def _with_gradient(module: Any, *arguments: torch.Tensor) -> torch.Tensor:
    if not _is_fp8(module):
        result: torch.Tensor = ALL_EXPERTS_FUNCTIONS["grouped_mm"](module, *arguments)
    elif hasattr(finegrained_fp8, "FP8GroupedMatmulFunction"):
        result = finegrained_fp8.ALL_FP8_EXPERTS_FUNCTIONS["grouped_mm"](module, *arguments)
    else:
        raise Unsupported("transformers: a tensor requires grad, and experts in fp8 have none in this version of transformers. "
                          "Call under torch.no_grad().")
    return result


def _has_sentinels(module: Any) -> bool:
    """Expert parallel: ids of other ranks' experts are E_local."""
    flag = getattr(module, "_is_expert_parallel", None)
    return torch.distributed.is_available() and torch.distributed.is_initialized() if flag is None else bool(flag)


def experts_forward(self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor,
                    top_k_weights: torch.Tensor) -> torch.Tensor:
    """The experts of one module, in bf16 or fp8: hidden bf16 [T, H], ids i64 [T, K], weights [T, K] -> bf16 [T, H].

    Where a gradient is needed, transformers' grouped_mm computes instead, or Unsupported is raised (use(training=)).
    """
    plan = _plan(self)
    if _needs_gradient(self, hidden_states, top_k_weights):
        if plan.training == "refuse":
            raise Unsupported("transformers: a tensor requires grad, and no gradient is computed here. Call under "
                              "torch.no_grad(), or use(model, training='grouped_mm').")
        return _with_gradient(self, hidden_states, top_k_index, top_k_weights)
    w = _weights(self, plan)
    output: torch.Tensor = torch.ops.switchyard.fused_experts(
        hidden_states.reshape(-1, hidden_states.shape[-1]), w.w1, w.w2, top_k_index, top_k_weights,
        order="gate_up", activation=plan.activation.name, alpha=plan.activation.alpha, limit=plan.activation.limit, b1=w.b1,
        b2=w.b2, no_expert_out_of_range=_has_sentinels(self), w1_scales=w.w1_scales, w2_scales=w.w2_scales,
        w1_block=plan.block, w2_block=plan.block)
    return output.view(hidden_states.shape)


for _interface in (ExpertsInterface, finegrained_fp8.FP8ExpertsInterface):
    _interface.register(NAME, experts_forward)


# ---- a model


def use(model: torch.nn.Module, *, training: str = TRAINING[0]) -> list[str]:
    """Every module of experts of a transformers model runs on Switchyard. Returns their names.

    training: where a gradient is needed, "grouped_mm" computes with transformers' own, "refuse" raises Unsupported.
    Weights that are interleaved, transposed or have biases (gpt-oss) are copied, and scales that are powers of two (ue8m0)
    become f32.

    Raises Unsupported, and changes nothing, where a module cannot be run (float32 weights, an activation that is none of
    Switchyard's, experts in fp4, in fp8 with static scales of rows or without blocks), with each reason, and for a model
    without the interface.
    """
    if training not in TRAINING:
        raise Unsupported(f"transformers: training={training}, need {' or '.join(TRAINING)}.")
    found = {name: module for name, module in model.named_modules() if _is_experts(module)}
    if not found:
        raise Unsupported(f"transformers: {type(model).__name__} has no module with the experts interface, "
                          "nothing would change. Run its layers by MoeLayer.from_pretrained.")
    reasons = {f"{name}: {reason}" for name, module in found.items() if (reason := _why_not(module))}
    if reasons:
        raise Unsupported(f"transformers: {'; '.join(sorted(reasons))}")
    for module in found.values():
        module.__dict__.pop("_switchyard_plan", None)
        _weights(module, _plan(module, training))  # torch.compile may come before the first call
    model.set_experts_implementation(NAME)  # type: ignore[operator]  # of PreTrainedModel
    return list(found)


if importlib.util.find_spec("transformers.distributed.expert_parallel"):  # 5.24 has it, 5.17 has not
    SwitchyardEP = importlib.import_module("switchyard._expert_parallel").SwitchyardEP
