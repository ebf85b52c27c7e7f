# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Switchyard inside SGLang: the experts of its unquantised MoE layers. `_engines` imports this where it is asked for.

A runner core `switchyard` is registered. SGLang's unquantised method chooses its runner by itself, so a hook around
that choice puts ours in its place, or leaves it and the log says why.
"""
from __future__ import annotations

import functools
import logging
from typing import Any, Callable, Optional

import torch
from sglang.srt.layers.moe import MoeRunner, get_moe_a2a_backend
from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig, register_moe_runner_core
from sglang.srt.layers.moe.moe_runner.base import DispatchMoeRunnerCore
from sglang.srt.layers.moe.token_dispatcher.standard import StandardCombineInput
from sglang.srt.layers.moe.utils import RegisteredMoeRunnerBackend
from sglang.srt.layers.quantization.unquant import UnquantizedFusedMoEMethod
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_exec, get_lora
from sglang.srt.utils.common import is_cuda, is_sm90_supported

from . import torch as _torch  # the operations
from ._engines import parameters_of, say_once, weights_fault
from ._errors import Unsupported

NAME = "switchyard"
TARGET = f"{UnquantizedFusedMoEMethod.__module__}.{UnquantizedFusedMoEMethod.__name__}.create_moe_runner"
LOGGER = logging.getLogger("sglang.switchyard")


def activation_of(config: MoeRunnerConfig) -> Optional[tuple[str, float, float]]:
    """Name, alpha and limit of what SGLang computes between the GEMMs; None if Switchyard has no such activation."""
    alpha, limit = config.gemm1_alpha, config.gemm1_clamp_limit
    if not config.is_gated:
        return ("relu2", 1.0, 1.0) if config.activation == "relu2" else None
    if config.activation == "silu":
        if alpha is not None:
            fits = limit is not None and not config.gate_up_interleaved and config.gemm1_beta in (None, 1.0)
            return ("clamped_swiglu", alpha, limit) if fits else None
        if limit is not None:
            return "clamped_silu", 1.0, limit
        return ("silu", 1.0, 1.0) if config.swiglu_limit is None else ("silu_of_clamped", 1.0, config.swiglu_limit)
    if config.activation == "situ":
        return None if limit is None else ("situ", 4.0 if alpha is None else alpha, limit)
    if config.activation in ("gelu", "gelu_tanh") and alpha is None and limit is None:
        return config.activation, 1.0, 1.0
    return None


class Core(DispatchMoeRunnerCore):  # type: ignore[misc]  # SGLang may not be installed
    """The experts of one rank: all of them, a slice of each (tensor parallel), or some (expert parallel)."""

    @property
    def runner_backend(self) -> RegisteredMoeRunnerBackend:
        return RegisteredMoeRunnerBackend(NAME)

    def run_from_dispatch(self, dispatch_output: Any, quant_info: Any, runner_config: MoeRunnerConfig,
                          hooks: Any = None) -> StandardCombineInput:
        """hidden_states bf16 [T, H], topk_ids i32 [T, K] of this rank's experts or -1, topk_weights f32 -> bf16 [T, H].

        A new tensor also where config.inplace allows SGLang's own to write its input: ours reads it until the end.
        Raises Unsupported where _why_not could not see it.
        """
        found = activation_of(runner_config)
        if (found is None or hooks is not None or quant_info.fuse_swiglu_interleaved
                or dispatch_output.hidden_states_scale is not None):
            raise Unsupported(f"sglang: activation={runner_config.activation}, hooks={hooks is not None}, "
                              f"interleaved={quant_info.fuse_swiglu_interleaved}: not what the layer was made for. "
                              "Unset SWITCHYARD_ENGINES.")
        name, alpha, limit = found
        weights, scale = dispatch_output.topk_output.topk_weights, runner_config.routed_scaling_factor
        output = torch.ops.switchyard.fused_experts(
            dispatch_output.hidden_states, quant_info.w13_weight, quant_info.w2_weight, dispatch_output.topk_output.topk_ids,
            weights if scale in (None, 1.0) else weights * scale, order="gate_up", activation=name, alpha=alpha, limit=limit,
            no_expert_out_of_range=True)  # rows that pad a graph may have any id
        return StandardCombineInput(hidden_states=output)


def _why_not(method: Any, layer: Any, config: MoeRunnerConfig) -> Optional[str]:
    """Why the experts of a layer stay SGLang's; None if they need not."""
    if not is_cuda() or not is_sm90_supported():
        return "need a GPU of compute capability 9.0."
    if not method.runner.runner_backend.is_triton():  # others arrange the weights for themselves
        return f"runner={method.runner.runner_backend.value}, need triton. Say --moe-runner-backend triton."
    if layer.quant_method is not method:
        return f"{type(layer.quant_method).__name__} wraps the layer's method."
    if not get_moe_a2a_backend().is_none():
        return f"moe_a2a_backend={get_moe_a2a_backend().value}, need none."
    if get_lora().enable_lora or get_lora().lora_paths:
        return "LoRA is on."
    if get_exec().moe.enable_fused_moe_sum_all_reduce:
        return "the engine sums over the ranks inside its kernel. Leave out --enable-fused-moe-sum-all-reduce."
    if activation_of(config) is None:
        return (f"activation={config.activation}, gated={config.is_gated}, alpha={config.gemm1_alpha}, "
                f"limit={config.gemm1_clamp_limit}, interleaved={config.gate_up_interleaved} is none of Switchyard's.")
    if method.with_bias:
        return "experts have biases."
    if config.apply_router_weight_on_input or config.no_combine:
        return "router weights are applied to the input, or rows of experts are not summed."
    return weights_fault(w13_weight=layer.w13_weight, w2_weight=layer.w2_weight)


def _choose_runner(original: Callable[..., Any], self: Any, layer: Any, moe_runner_config: MoeRunnerConfig) -> Any:
    """Around UnquantizedFusedMoEMethod.create_moe_runner: SGLang's choice has been made when ours takes its place."""
    result = original(self, layer, moe_runner_config)
    try:
        reason = _why_not(self, layer, moe_runner_config)
        if reason is None:
            self.runner = MoeRunner(RegisteredMoeRunnerBackend(NAME), moe_runner_config)
    except Exception as error:  # a name that this release has not
        reason = f"{type(error).__name__}: {error}"
    if reason is None:
        say_once(LOGGER, "Switchyard computes the experts of unquantised MoE layers.", logging.INFO)
    else:
        say_once(LOGGER, f"Switchyard is not used by a MoE layer: {reason}")
    return result


def _difference() -> Optional[str]:
    """What this release of SGLang has otherwise than the ones that were read (tests/python/engines.txt)."""
    if missing := sorted(getattr(Core, "__abstractmethods__", ())):
        return f"DispatchMoeRunnerCore has {', '.join(missing)}"
    for theirs, name, ours in ((DispatchMoeRunnerCore, "run_from_dispatch", parameters_of(Core.run_from_dispatch)),
                               (UnquantizedFusedMoEMethod, "create_moe_runner", parameters_of(_choose_runner)[1:])):
        if (has := parameters_of(getattr(theirs, name))) != ours:
            return f"{theirs.__name__}.{name} takes {', '.join(has)}"
    return None


@functools.lru_cache(maxsize=None)
def register() -> None:
    """The runner core and the hook. May be called again."""
    if difference := _difference():
        raise Unsupported(f"sglang: {difference}, which this release of Switchyard does not know. Take a release that does.")
    register_moe_runner_core(NAME, Core)
    HookRegistry.register(TARGET, _choose_runner, HookType.AROUND)
