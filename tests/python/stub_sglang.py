# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""What the plugin uses of SGLang, in the version of engines.txt: names and signatures. What they do is the least a test needs."""
import dataclasses
import enum
import types
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch

CLAIMS = {
    "sglang.srt.layers.moe": ["MoeRunner", "get_moe_a2a_backend"],
    "sglang.srt.layers.moe.moe_runner": ["MoeRunner", "MoeRunnerConfig", "register_moe_runner_core"],
    "sglang.srt.layers.moe.moe_runner.base": ["DispatchMoeRunnerCore", "MoeRunnerConfig"],
    "sglang.srt.layers.moe.moe_runner.runner": ["MoeRunner", "register_moe_runner_core"],
    "sglang.srt.layers.moe.moe_runner.triton": ["TritonMoeQuantInfo"],
    "sglang.srt.layers.moe.token_dispatcher.standard": ["StandardCombineInput", "StandardDispatchOutput"],
    "sglang.srt.layers.moe.topk": ["StandardTopKOutput"],
    "sglang.srt.layers.moe.utils": ["MoeA2ABackend", "MoeRunnerBackend", "RegisteredMoeRunnerBackend", "_MoeRunnerBackendPredicates",
                                    "get_moe_a2a_backend"],
    "sglang.srt.layers.quantization.unquant": ["UnquantizedFusedMoEMethod"],
    "sglang.srt.plugins.hook_registry": ["HookRegistry", "HookType"],
    "sglang.srt.runtime_context": ["get_exec", "get_lora"],
    "sglang.srt.utils.common": ["is_cuda", "is_sm90_supported"],
}


# ---- what the server was started with; its tensors are on the CPU

state = types.SimpleNamespace(cuda=True, sm90=True, a2a="none", lora=False, sum_all_reduce=False, runner="triton")


def is_cuda():
    return state.cuda


def is_sm90_supported():
    return state.sm90


def get_exec():
    return types.SimpleNamespace(moe=types.SimpleNamespace(enable_fused_moe_sum_all_reduce=state.sum_all_reduce))


def get_lora():
    return types.SimpleNamespace(enable_lora=state.lora, lora_paths=None)


# ---- utils


class MoeA2ABackend(enum.Enum):
    NONE = "none"
    DEEPEP = "deepep"

    def is_none(self):
        return self is MoeA2ABackend.NONE


def get_moe_a2a_backend():
    return MoeA2ABackend(state.a2a)


class _MoeRunnerBackendPredicates:
    def is_triton(self):
        return self.value == MoeRunnerBackend.TRITON.value


class MoeRunnerBackend(_MoeRunnerBackendPredicates, enum.Enum):
    TRITON = "triton"
    FLASHINFER_CUTLASS = "flashinfer_cutlass"


@dataclasses.dataclass(frozen=True)
class RegisteredMoeRunnerBackend(_MoeRunnerBackendPredicates):
    value: str


# ---- plugins.hook_registry


class HookType(enum.Enum):
    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"
    REPLACE = "replace"


class HookRegistry:
    _hooks = {}

    @classmethod
    def register(cls, target, hook, hook_type=HookType.AFTER, *, source=None):
        cls._hooks.setdefault(target, []).append((hook_type, hook, source))

    @classmethod
    def apply_hooks(cls):
        for target, hooks in cls._hooks.items():
            name = target.rsplit(".", 1)[1]
            assert target == f"{UnquantizedFusedMoEMethod.__module__}.UnquantizedFusedMoEMethod.{name}"
            ((hook_type, hook, _),) = hooks
            assert hook_type is HookType.AROUND
            original = getattr(UnquantizedFusedMoEMethod, name)
            setattr(UnquantizedFusedMoEMethod, name, lambda *a, **k: hook(original, *a, **k))


# ---- topk, token_dispatcher


class StandardTopKOutput(NamedTuple):
    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    router_logits: torch.Tensor


class StandardDispatchOutput(NamedTuple):
    hidden_states: torch.Tensor
    hidden_states_scale: Any
    topk_output: StandardTopKOutput
    hidden_states_pre_quant: Any = None


class StandardCombineInput(NamedTuple):
    hidden_states: torch.Tensor


# ---- moe_runner


@dataclasses.dataclass
class MoeRunnerConfig:
    num_experts: int = None
    num_local_experts: int = None
    top_k: int = None
    num_fused_shared_experts: int = None
    activation: str = "silu"
    is_gated: bool = True
    apply_router_weight_on_input: bool = False
    inplace: bool = True
    no_combine: bool = False
    routed_scaling_factor: float = None
    gemm1_alpha: float = None
    gemm1_beta: float = None
    gemm1_clamp_limit: float = None
    swiglu_limit: float = None
    gate_up_interleaved: bool = True


@dataclasses.dataclass
class TritonMoeQuantInfo:
    w13_weight: torch.Tensor
    w2_weight: torch.Tensor
    b13: torch.Tensor = None
    b2: torch.Tensor = None
    fuse_swiglu_interleaved: bool = False


class DispatchMoeRunnerCore(ABC):
    def __init__(self, config):
        self.config = config

    @property
    @abstractmethod
    def runner_backend(self):
        ...

    @abstractmethod
    def run_from_dispatch(self, dispatch_output, quant_info, runner_config, hooks=None):
        ...


_CUSTOM_RUNNER_CORE_FACTORIES = {}


def register_moe_runner_core(backend_name, factory):
    if backend_name in _CUSTOM_RUNNER_CORE_FACTORIES:
        raise ValueError(f"{backend_name} is registered")
    _CUSTOM_RUNNER_CORE_FACTORIES[backend_name] = factory


class MoeRunner:
    def __init__(self, runner_backend, config, lora_enabled=False):
        self.runner_backend, self.config = runner_backend, config
        factory = _CUSTOM_RUNNER_CORE_FACTORIES.get(runner_backend.value)
        self.runner_core = factory(config) if factory else None

    def run(self, dispatch_output, quant_info, lora_info=None):
        if self.runner_core is None:  # in place of SGLang's kernels
            return StandardCombineInput(torch.zeros_like(dispatch_output.hidden_states))
        return self.runner_core.run_from_dispatch(dispatch_output, quant_info, self.config, hooks=None)


# ---- quantization.unquant


class UnquantizedFusedMoEMethod:
    def __init__(self, use_triton_kernels=False, use_flashinfer_trtllm_moe=False, use_deep_gemm=False):
        self.with_bias = self.w13_swiglu_interleaved = False
        self.runner = None

    def create_moe_runner(self, layer, moe_runner_config):
        self.runner = MoeRunner(MoeRunnerBackend(state.runner), moe_runner_config)

    def apply(self, layer, dispatch_output):
        return self.runner.run(dispatch_output, TritonMoeQuantInfo(
            layer.w13_weight, layer.w2_weight, fuse_swiglu_interleaved=self.w13_swiglu_interleaved))
