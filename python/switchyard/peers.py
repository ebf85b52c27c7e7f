# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Other implementations of the experts of a MoE layer, each called as its users call it: for switchyard.bench.

PEERS is the table. `Peer.prepare` imports its package, arranges the weights as it wants them, and returns a function of
rows; it raises what the import raises, or Skip with the reason. Nothing of a peer is in this package.
"""
from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Callable, Optional

import torch

Call = Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor]  # hidden, ids, weights -> output


class Skip(Exception):
    """Why a peer is not run."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """w13 bf16 [E, 2I, H] (gate first), w2 bf16 [E, H, I], router bf16 [E, H]; SiLU, softmax top-k, renormalised."""

    w13: torch.Tensor
    w2: torch.Tensor
    router: torch.Tensor
    top_k: int
    max_tokens: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """H, I, E, K."""
        return self.w2.shape[1], self.w2.shape[2], self.w2.shape[0], self.top_k

    @staticmethod
    def random(sizes: tuple[int, int, int, int], max_tokens: int, device: torch.device, seed: int = 0) -> "Layer":
        """Products keep the size of their input."""
        h, i, e, k = sizes
        generator = torch.Generator(device).manual_seed(seed)

        def bf16(*shape: int) -> torch.Tensor:
            made = torch.empty(shape, dtype=torch.bfloat16, device=device)
            for part in made:  # random numbers of one expert at a time
                part.copy_(torch.randn(part.shape, generator=generator, device=device) * shape[-1] ** -0.5)
            return made

        return Layer(bf16(e, 2 * i, h), bf16(e, h, i), bf16(e, h), k, max_tokens)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """f32 [T, E]."""
        if hidden.is_cuda:
            return torch.mm(hidden, self.router.t(), out_dtype=torch.float32)
        return hidden.float() @ self.router.float().t()

    def gate(self, hidden: torch.Tensor, dtype: torch.dtype = torch.int32) -> tuple[torch.Tensor, torch.Tensor]:
        """ids [T, K], weights f32 [T, K]: for peers without a gate of their own."""
        weights, ids = self.logits(hidden).softmax(-1).topk(self.top_k)
        return ids.to(dtype), weights / weights.sum(-1, keepdim=True)

    def by_definition(self, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """f64 [T, H]."""
        result = torch.zeros(hidden.shape, dtype=torch.float64, device=hidden.device)
        for expert in ids.unique().tolist():
            row, slot = (ids == expert).nonzero(as_tuple=True)
            gate, up = (hidden[row].double() @ self.w13[expert].double().t()).chunk(2, -1)
            rows = (torch.nn.functional.silu(gate) * up) @ self.w2[expert].double().t()
            result.index_add_(0, row, weights[row, slot].double()[:, None] * rows)
        return result

    def is_clear(self, hidden: torch.Tensor) -> torch.Tensor:
        """bool [T]: rows whose K experts no rounding of a gate's f32 changes."""
        logits = (hidden.double() @ self.router.double().t()).sort(descending=True).values
        k = min(self.top_k, logits.shape[1] - 1)
        return (logits[:, k - 1] - logits[:, k] > 1e-5) | (self.top_k == logits.shape[1])


@dataclasses.dataclass(frozen=True)
class Prepared:
    given: Call
    whole: Optional[Callable[[torch.Tensor], torch.Tensor]] = None  # with a gate of its own
    ids: torch.dtype = torch.int32  # what it wants
    plan: Optional[Callable[[torch.Tensor], Any]] = None  # of ids: what `given` gets for them; outside of a time


@dataclasses.dataclass(frozen=True)
class Peer:
    name: str
    package: str  # as it is imported
    prepare: Callable[[Layer], Prepared]
    on_cpu: bool = False


# ---- what peers that bring grouped GEMMs alone have in common


def _by_expert(ids: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slots sorted by expert [T K], expert of each, ends of the experts i32 [E]; without waiting for the device."""
    experts, order = ids.flatten().sort(stable=True)
    ends = torch.searchsorted(experts, torch.arange(num_experts, device=ids.device, dtype=ids.dtype), right=True)
    return order, experts, ends.int()


def _combine(rows: torch.Tensor, order: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """rows bf16 [T K, H] by expert -> bf16 [T, H], weighted."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return (rows[place].view(*weights.shape, -1) * weights.to(rows.dtype).unsqueeze(-1)).sum(1)


def _silu_and_mul(rows: torch.Tensor) -> torch.Tensor:
    gate, up = rows.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


@functools.lru_cache(maxsize=None)  # compiled once, not for each model
def _one_kernel(function: Callable[..., torch.Tensor], device: torch.device) -> Callable[..., torch.Tensor]:
    """For peers whose users have a kernel for it."""
    if device.type != "cuda":
        return function
    compiled: Callable[..., torch.Tensor] = torch.compile(function, dynamic=True)
    return compiled


# ---- the peers


def _switchyard(layer: Layer) -> Prepared:
    import switchyard

    h, i, e, k = layer.sizes
    config = switchyard.MoeConfig(hidden=h, intermediate=i, num_experts=e, top_k=k, gate=switchyard.GateConfig(renormalize=True))
    weights = switchyard.LayerWeights(layer.w13, layer.w2, switchyard.GateUpOrder.GateUp, router=layer.router)
    made = switchyard.MoeLayer(config, weights, max_tokens=layer.max_tokens)

    def given(hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = made.forward(hidden, ids=ids, weights=weights, max_tokens=len(hidden))
        return output

    def whole(hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = made.forward(hidden, max_tokens=len(hidden))
        return output

    return Prepared(given, whole)


def _switchyard_op(layer: Layer) -> Prepared:
    from . import torch as _torch  # noqa: F401  # the operations

    return Prepared(lambda hidden, ids, weights: torch.ops.switchyard.fused_experts(
        hidden, layer.w13, layer.w2, ids, weights, order="gate_up"))


def _torch_grouped_mm(layer: Layer) -> Prepared:
    grouped_mm = torch.nn.functional.grouped_mm

    def given(hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        order, _, ends = _by_expert(ids, layer.sizes[2])
        rows = _silu_and_mul(grouped_mm(hidden[order // layer.top_k], layer.w13.transpose(1, 2), offs=ends))
        return _combine(grouped_mm(rows, layer.w2.transpose(1, 2), offs=ends), order, weights)

    return Prepared(given)


def _transformers(name: str, layer: Layer) -> Prepared:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _default_apply_gate

    module = types.SimpleNamespace(
        num_experts=layer.sizes[2], has_gate=True, has_bias=False, is_transposed=False, is_concatenated=True,
        gate_up_proj=layer.w13, down_proj=layer.w2, act_fn=torch.nn.functional.silu)
    module._apply_gate = functools.partial(_default_apply_gate, module)
    function = ALL_EXPERTS_FUNCTIONS[name]

    def given(hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if name == "batched_mm" and (gigabytes := ids.numel() * layer.w13[0].numel() * 2e-9) > 16:
            raise Skip(f"would copy {gigabytes:.0f} GB of weights")
        output: torch.Tensor = function(module, hidden, ids, weights)
        return output

    return Prepared(given, ids=torch.int64)


def _quack(layer: Layer) -> Prepared:
    from quack.gemm_interface import gemm, gemm_act

    def given(hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        order, _, ends = _by_expert(ids, layer.sizes[2])
        starts = torch.nn.functional.pad(ends, (1, 0))
        _, rows = gemm_act(hidden, layer.w13.transpose(1, 2), activation="swiglu", cu_seqlens_m=starts,
                           A_idx=(order // layer.top_k).int(), store_preact=False, concat_layout=("B",))
        return _combine(gemm(rows, layer.w2.transpose(1, 2), cu_seqlens_m=starts), order, weights)

    return Prepared(given)


def _quack_kernel(layer: Layer) -> Prepared:
    from . import _quack_kernel as kernel

    combine = _one_kernel(kernel.combine, layer.w13.device)
    kernel.kernels()
    return Prepared(lambda hidden, planned, weights: kernel.experts(hidden, layer.w13, layer.w2, planned, weights, combine),
                    plan=lambda ids: kernel.plan(ids, layer.w13, layer.w2))


def _sonicmoe(layer: Layer) -> Prepared:
    from sonicmoe import moe_general_routing_inputs
    from sonicmoe.enums import ActivationType

    def given(hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        token = torch.arange(len(hidden), device=hidden.device, dtype=torch.int32).repeat_interleave(layer.top_k)
        output: torch.Tensor = moe_general_routing_inputs(
            hidden, weights.flatten(), token, ids.flatten(), layer.w13.permute(1, 2, 0), None, layer.w2.permute(1, 2, 0), None,
            E=layer.sizes[2], stream_id=torch.cuda.current_stream().cuda_stream, activation_type=ActivationType.SWIGLU,
            is_inference_mode_enabled=True, concat_layout=True)[0]
        return output

    return Prepared(given)


def _deep_gemm(layer: Layer) -> Prepared:
    import deep_gemm

    h, i, e, k = layer.sizes
    find = getattr(deep_gemm, "get_mk_alignment_for_contiguous_layout", None) or deep_gemm.get_m_alignment_for_contiguous_layout
    alignment = find()
    silu_and_mul = _one_kernel(_silu_and_mul, layer.w13.device)

    def given(hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        order, experts, ends = _by_expert(ids, e)
        counts = torch.diff(ends, prepend=ends.new_zeros(1))
        padded = (counts + alignment - 1) // alignment * alignment
        shift = (padded.cumsum(0) - padded) - (ends - counts)  # of an expert's rows, by the padding before them
        place = torch.arange(len(order), device=ids.device) + shift[experts.long()]
        most = (min(e, ids.numel()) * (alignment - 1) + ids.numel() + alignment - 1) // alignment * alignment
        layout = torch.full((most,), -1, dtype=torch.int32, device=ids.device)
        layout[place] = experts.int()
        rows = hidden.new_empty(most, h)
        rows[place] = hidden[order // k]
        between, result = hidden.new_empty(most, 2 * i), hidden.new_empty(most, h)
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(rows, layer.w13, between, layout)
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(silu_and_mul(between), layer.w2, result, layout)
        return _combine(result[place], order, weights)

    return Prepared(given)


def _flashinfer(layer: Layer) -> Prepared:
    from flashinfer.fused_moe import cutlass_fused_moe

    up_first = torch.cat(layer.w13.chunk(2, 1)[::-1], 1)

    def given(hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(hidden)
        cutlass_fused_moe(hidden, ids, weights, up_first, layer.w2, torch.bfloat16, quant_scales=[], output=output)
        return output

    return Prepared(given)


def _liger(layer: Layer) -> Prepared:
    from liger_kernel.ops.fused_moe import LigerFusedMoEFunction

    return Prepared(lambda hidden, ids, weights: LigerFusedMoEFunction.apply(hidden, layer.w13, layer.w2, ids, weights))


def _vllm(layer: Layer) -> Prepared:
    from vllm.model_executor.layers.fused_moe import fused_experts, fused_topk

    def whole(hidden: torch.Tensor) -> torch.Tensor:
        weights, ids, _ = fused_topk(hidden, layer.logits(hidden), layer.top_k, True)
        output: torch.Tensor = fused_experts(hidden, layer.w13, layer.w2, weights, ids)
        return output

    return Prepared(lambda hidden, ids, weights: fused_experts(hidden, layer.w13, layer.w2, weights, ids), whole)


def _vllm_kernel(layer: Layer) -> Prepared:
    from . import _vllm_kernel as kernel

    silu_and_mul = _one_kernel(_silu_and_mul, layer.w13.device)
    kernel.functions()
    return Prepared(lambda hidden, planned, weights: kernel.experts(hidden, layer.w13, layer.w2, planned, weights, silu_and_mul),
                    plan=lambda ids: kernel.plan(ids, layer.sizes))


def _sglang(layer: Layer) -> Prepared:
    from sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe import fused_experts_impl

    return Prepared(lambda hidden, ids, weights: fused_experts_impl(hidden, layer.w13, layer.w2, weights, ids))


PEERS = (
    Peer("switchyard", "switchyard", _switchyard, on_cpu=True),
    Peer("switchyard-op", "switchyard", _switchyard_op, on_cpu=True),
    Peer("torch", "torch", _torch_grouped_mm, on_cpu=True),
    Peer("transformers", "transformers", functools.partial(_transformers, "grouped_mm"), on_cpu=True),
    Peer("transformers-batched", "transformers", functools.partial(_transformers, "batched_mm"), on_cpu=True),
    Peer("quack", "quack", _quack),
    Peer("quack-kernel", "quack_compiled", _quack_kernel),
    Peer("sonicmoe", "sonicmoe", _sonicmoe),
    Peer("deepgemm", "deep_gemm", _deep_gemm),
    Peer("flashinfer", "flashinfer", _flashinfer),
    Peer("liger", "liger_kernel", _liger),
    Peer("vllm", "vllm", _vllm),
    Peer("vllm-kernel", "vllm", _vllm_kernel),
    Peer("sglang", "sglang", _sglang),
)
