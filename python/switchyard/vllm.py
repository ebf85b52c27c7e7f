# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Switchyard inside vLLM: the experts of its unquantised MoE layers. `_engines` imports this where it is asked for.

vLLM makes the kernel of a layer when its weights are loaded. There each layer is decided: its experts become
`SwitchyardExperts`, or stay vLLM's, and the log says why.
"""
from __future__ import annotations

import logging
from typing import Any, Optional

import torch
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.fused_moe import modular_kernel as mk
from vllm.model_executor.layers.fused_moe.activation import ApplyMoEActivationConfig, MoEActivation
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.topk_weight_and_reduce import TopKWeightAndReduceNoOP
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.platforms import current_platform

from . import torch as _torch  # the operations
from ._engines import parameters_of, say_once, weights_fault
from ._errors import Unsupported

LOGGER = logging.getLogger("vllm.switchyard")


def activation_of(kind: MoEActivation, numbers: ApplyMoEActivationConfig) -> Optional[tuple[str, float, float]]:
    """Name, alpha and limit of what vLLM computes between the GEMMs; None if Switchyard has no such activation."""
    limit, alpha, beta = numbers.clamp_limit, numbers.alpha, numbers.beta
    if kind is MoEActivation.SILU:
        return ("silu", 1.0, 1.0) if limit is None else ("silu_of_clamped", 1.0, limit)
    if kind is MoEActivation.SWIGLUOAI_UNINTERLEAVE and limit is not None:
        if (alpha, beta) == (1.0, 0.0):
            return "silu_of_clamped", 1.0, limit
        return ("clamped_swiglu", alpha, limit) if beta == 1.0 else None
    if kind is MoEActivation.SITU:
        soft, linear = numbers.activation_situ_beta, numbers.activation_situ_linear_beta
        return None if soft is None or linear is None else ("situ", soft, linear)
    return {
        MoEActivation.GELU: ("gelu", 1.0, 1.0),
        MoEActivation.GELU_TANH: ("gelu_tanh", 1.0, 1.0),
        MoEActivation.SWIGLUSTEP: ("clamped_silu", 1.0, 7.0),  # vLLM's kernel has this limit as a default
        MoEActivation.RELU2_NO_MUL: ("relu2", 1.0, 1.0),
    }.get(kind)


class SwitchyardExperts(mk.FusedMoEExpertsModular):  # type: ignore[misc]  # vLLM may not be installed
    """The experts of one rank: all of them, a slice of each (tensor parallel), or some (expert parallel)."""

    @staticmethod
    def activation_format() -> Any:
        return mk.FusedMoEActivationFormat.Standard

    @staticmethod
    def _supports_current_device() -> bool:
        return bool(current_platform.is_cuda() and current_platform.is_device_capability_family(90))

    @staticmethod
    def _supports_no_act_and_mul() -> bool:
        return True

    @staticmethod
    def _supports_quant_scheme(weight_key: Any, activation_key: Any) -> bool:
        return weight_key is None and activation_key is None

    @staticmethod
    def _supports_activation(activation: MoEActivation) -> bool:
        # The numbers of an activation are known later: _why_not looks at them.
        return activation in (MoEActivation.SILU, MoEActivation.GELU, MoEActivation.GELU_TANH, MoEActivation.SITU,
                              MoEActivation.SWIGLUOAI_UNINTERLEAVE, MoEActivation.SWIGLUSTEP, MoEActivation.RELU2_NO_MUL)

    @staticmethod
    def _supports_parallel_config(moe_parallel_config: Any) -> bool:
        # All-to-all kernels have id and row conventions of their own.
        return not (moe_parallel_config.use_all2all_kernels or moe_parallel_config.use_passthrough_all2all)

    @staticmethod
    def _supports_shape(hidden_dim: int) -> bool:
        return hidden_dim % 8 == 0

    @staticmethod
    def _supports_batch_invariance() -> bool:
        return True  # docs/guide/numerics.md

    def workspace_shapes(self, M: int, N: int, K: int, topk: int, global_num_experts: int, local_num_experts: int,
                         expert_tokens_meta: Any, activation: MoEActivation) -> tuple[tuple[int, ...], ...]:
        # Memory of a call comes from torch's allocator, which keeps that of a captured graph. So nothing of ours can
        # overlap `output`, which shares vLLM's workspace.
        return (0,), (0,), (M, K)

    def finalize_weight_and_reduce_impl(self) -> Any:
        return TopKWeightAndReduceNoOP()

    def apply(self, output: torch.Tensor, hidden_states: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor,
              topk_weights: torch.Tensor, topk_ids: torch.Tensor, activation: MoEActivation, global_num_experts: int,
              expert_map: Optional[torch.Tensor], a1q_scale: Optional[torch.Tensor], a2_scale: Optional[torch.Tensor],
              workspace13: torch.Tensor, workspace2: torch.Tensor, expert_tokens_meta: Any,
              apply_router_weight_on_input: bool) -> None:
        """output bf16 [M, H] of hidden_states bf16 [M, H], w1 bf16 [E, 2I, H] (gate first), w2 bf16 [E, H, I], ids [M, K].

        expert_map i32 [global experts]: this rank's expert, or -1. Raises Unsupported where _why_not could not see it.
        """
        found = activation_of(activation, self.activation_config)
        hook = getattr(self, "post_gemm2_hook", None)
        if found is None or apply_router_weight_on_input or a1q_scale is not None or hook is not None:
            raise Unsupported(f"vllm: {activation}, apply_router_weight_on_input={apply_router_weight_on_input}, "
                              f"quantised={a1q_scale is not None}, post_gemm2_hook={hook is not None}: "
                              "not what the layer was made for. Unset SWITCHYARD_ENGINES.")
        name, alpha, limit = found
        torch.ops.switchyard.fused_experts_out(
            hidden_states, w1, w2, topk_ids, topk_weights, order="gate_up", activation=name, alpha=alpha, limit=limit,
            expert_map=expert_map, no_expert_out_of_range=True, out=output)  # rows that pad a graph may have any id


def _why_not(method: UnquantizedFusedMoEMethod, layer: Any) -> Optional[str]:
    """Why the experts of a layer stay vLLM's; None if they need not."""
    if method.unquantized_backend is not UnquantizedMoeBackend.TRITON:  # others arrange the weights for themselves
        return f"backend={method.unquantized_backend.value}, need TRITON. Say --moe-backend triton."
    supported, reason = SwitchyardExperts.is_supported_config(
        SwitchyardExperts, method.moe, None, None, SwitchyardExperts.activation_format())
    if not supported:
        return str(reason)
    numbers = ApplyMoEActivationConfig.from_configs(method.moe, method.get_fused_moe_quant_config(layer))
    if activation_of(layer.activation, numbers) is None:
        return f"activation={layer.activation.value} with {numbers} is none of Switchyard's."
    if method.moe.in_dtype != torch.bfloat16:
        return f"rows are {str(method.moe.in_dtype).removeprefix('torch.')}, need bfloat16."
    if method.moe.has_bias:
        return "experts have biases."
    if layer.apply_router_weight_on_input:
        return "router weights are applied to the input."
    return weights_fault(w13_weight=layer.w13_weight, w2_weight=layer.w2_weight)


class SwitchyardMoEMethod(UnquantizedFusedMoEMethod):  # type: ignore[misc]
    """vLLM's, which decides once more when the weights are there."""

    def _init_moe_kernel(self, layer: Any) -> None:
        try:
            reason = _why_not(self, layer)
        except Exception as error:  # a name that this release has not
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            self.experts_cls = SwitchyardExperts
            say_once(LOGGER, "Switchyard computes the experts of unquantised MoE layers.", logging.INFO)
        else:
            say_once(LOGGER, f"Switchyard is not used by a MoE layer: {reason}")
        super()._init_moe_kernel(layer)


def _difference() -> Optional[str]:
    """What this release of vLLM has otherwise than the ones that were read (tests/python/engines.txt)."""
    if missing := sorted(getattr(SwitchyardExperts, "__abstractmethods__", ())):
        return f"FusedMoEExpertsModular has {', '.join(missing)}"
    for ours, theirs, name in ((SwitchyardExperts, mk.FusedMoEExpertsModular, "apply"),
                               (SwitchyardExperts, mk.FusedMoEExpertsModular, "workspace_shapes"),
                               (SwitchyardMoEMethod, UnquantizedFusedMoEMethod, "_init_moe_kernel")):
        if (has := parameters_of(getattr(theirs, name))) != parameters_of(getattr(ours, name)):
            return f"{theirs.__name__}.{name} takes {', '.join(has)}"
    return None


def register() -> None:
    """vLLM makes `SwitchyardMoEMethod` wherever it would make its own. May be called again."""
    name = UnquantizedFusedMoEMethod.__name__
    if op_registry_oot.get(name) is SwitchyardMoEMethod:
        return
    if name in op_registry_oot:
        raise Unsupported(f"vllm: {op_registry_oot[name].__name__} of another plugin replaces {name}. "
                          "Choose one by VLLM_PLUGINS.")
    if difference := _difference():
        raise Unsupported(f"vllm: {difference}, which this release of Switchyard does not know. Take a release that does.")
    UnquantizedFusedMoEMethod.register_oot(SwitchyardMoEMethod)
