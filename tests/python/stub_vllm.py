# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""What the plugin uses of vLLM, in the version of engines.txt: names and signatures. What they do is the least a test needs."""
import dataclasses
import enum
from abc import ABC, abstractmethod

import torch

CLAIMS = {
    "vllm.platforms": ["current_platform"],
    "vllm.model_executor.custom_op": ["CustomOp", "op_registry_oot"],
    "vllm.model_executor.layers.fused_moe.activation": ["ApplyMoEActivationConfig", "MoEActivation"],
    "vllm.model_executor.layers.fused_moe.config": ["FusedMoEConfig", "FusedMoEParallelConfig", "FusedMoEQuantConfig"],
    "vllm.model_executor.layers.fused_moe.modular_kernel": [
        "ExpertTokensMetadata", "FusedMoEActivationFormat", "FusedMoEExperts", "FusedMoEExpertsModular", "FusedMoEKernel",
        "TopKWeightAndReduce"],
    "vllm.model_executor.layers.fused_moe.oracle.unquantized": ["UnquantizedMoeBackend"],
    "vllm.model_executor.layers.fused_moe.routed_experts": ["RoutedExperts"],
    "vllm.model_executor.layers.fused_moe.topk_weight_and_reduce": ["TopKWeightAndReduceNoOP"],
    "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method": ["UnquantizedFusedMoEMethod"],
}


class Platform:
    """A Hopper GPU, whose tensors are on the CPU."""

    family = 90

    def is_cuda(self):
        return True

    def is_device_capability_family(self, capability, device_id=0):
        return capability == self.family


current_platform = Platform()


# ---- custom_op

op_registry_oot = {}


class CustomOp(torch.nn.Module):
    def __new__(cls, *args, **kwargs):
        return super().__new__(op_registry_oot.get(cls.__name__, cls))

    @classmethod
    def register_oot(cls, _decorated_op_cls=None, name=None):
        reg_name = name or cls.__name__
        assert reg_name not in op_registry_oot
        op_registry_oot[reg_name] = _decorated_op_cls
        return _decorated_op_cls


# ---- activation, config


class MoEActivation(enum.Enum):
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU2 = "relu2"
    SWIGLUOAI = "swigluoai"
    SITU = "situ"
    SWIGLUOAI_UNINTERLEAVE = "swigluoai_uninterleave"
    SWIGLUSTEP = "swiglustep"
    RELU2_NO_MUL = "relu2_no_mul"

    @property
    def is_gated(self):
        return not self.value.endswith("_no_mul")


@dataclasses.dataclass(frozen=True)
class FusedMoEQuantConfig:
    gemm1_alpha: float = None
    gemm1_beta: float = None
    gemm1_clamp_limit: float = None


@dataclasses.dataclass
class FusedMoEParallelConfig:
    tp_size: int = 1
    ep_size: int = 1
    dp_size: int = 1
    use_ep: bool = False
    all2all_backend: str = "allgather_reducescatter"

    @property
    def use_all2all_kernels(self):
        return self.use_ep and self.dp_size > 1

    @property
    def use_passthrough_all2all(self):
        return self.all2all_backend == "passthrough"


@dataclasses.dataclass
class FusedMoEConfig:
    num_experts: int
    experts_per_token: int
    hidden_dim: int
    activation: MoEActivation = MoEActivation.SILU
    moe_parallel_config: FusedMoEParallelConfig = dataclasses.field(default_factory=FusedMoEParallelConfig)
    in_dtype: torch.dtype = torch.bfloat16
    has_bias: bool = False
    is_lora_enabled: bool = False
    swiglu_limit: float = None
    swiglu_alpha: float = None
    swiglu_beta: float = None
    activation_situ_beta: float = None
    activation_situ_linear_beta: float = None

    @property
    def is_act_and_mul(self):
        return self.activation.is_gated


@dataclasses.dataclass(frozen=True)
class ApplyMoEActivationConfig:
    clamp_limit: float = None
    alpha: float = 1.0
    beta: float = 0.0
    activation_situ_beta: float = None
    activation_situ_linear_beta: float = None

    @classmethod
    def from_configs(cls, moe_config, quant_config):
        def of(name):
            value = getattr(quant_config, f"gemm1_{name}")
            return getattr(moe_config, f"swiglu_{name.removeprefix('clamp_')}") if value is None else value

        alpha, beta = of("alpha"), of("beta")
        return cls(of("clamp_limit"), 1.0 if alpha is None else alpha, 0.0 if beta is None else beta,
                   moe_config.activation_situ_beta, moe_config.activation_situ_linear_beta)


# ---- modular_kernel


class FusedMoEActivationFormat(enum.Enum):
    Standard = ("standard",)
    BatchedExperts = ("batched_experts",)


@dataclasses.dataclass
class ExpertTokensMetadata:
    expert_num_tokens: torch.Tensor
    expert_num_tokens_cpu: torch.Tensor


class TopKWeightAndReduce(ABC):
    @abstractmethod
    def apply(self, output, fused_expert_output, topk_weights, topk_ids, apply_router_weight_on_input):
        ...


class TopKWeightAndReduceNoOP(TopKWeightAndReduce):
    def apply(self, output, fused_expert_output, topk_weights, topk_ids, apply_router_weight_on_input):
        if output is None:
            return fused_expert_output
        if output.data_ptr() != fused_expert_output.data_ptr():
            output.copy_(fused_expert_output)
        return output


class FusedMoEExperts(ABC):
    post_gemm2_hook = None

    def __init__(self, moe_config, quant_config, max_num_tokens=None, num_dispatchers=None):
        self.moe_config, self.quant_config = moe_config, quant_config
        self.activation_config = ApplyMoEActivationConfig.from_configs(moe_config, quant_config)

    @staticmethod
    @abstractmethod
    def activation_format():
        ...

    @staticmethod
    def is_supported_config(cls, moe_config, weight_key, activation_key, activation_format):
        if not cls._supports_current_device():
            return False, "kernel does not support current device"
        if not (moe_config.is_act_and_mul or cls._supports_no_act_and_mul()):
            return False, "kernel does not support no act_and_mul MLP layer"
        if not cls._supports_activation(moe_config.activation):
            return False, f"kernel does not support {moe_config.activation} activation"
        if not cls._supports_quant_scheme(weight_key, activation_key):
            return False, "kernel does not support quantization scheme"
        if not cls._supports_parallel_config(moe_config.moe_parallel_config):
            return False, f"kernel does not support parallel config {moe_config.moe_parallel_config}"
        if not cls._supports_shape(moe_config.hidden_dim):
            return False, f"kernel does not support {moe_config.hidden_dim} hidden dim"
        if activation_format != cls.activation_format():
            return False, "kernel does not support activation format"
        if moe_config.is_lora_enabled and not cls.supports_lora():
            return False, "kernel does not support LoRA"
        return True, None

    @staticmethod
    @abstractmethod
    def _supports_current_device():
        ...

    @staticmethod
    @abstractmethod
    def _supports_no_act_and_mul():
        ...

    @staticmethod
    @abstractmethod
    def _supports_quant_scheme(weight_key, activation_key):
        ...

    @staticmethod
    @abstractmethod
    def _supports_activation(activation):
        ...

    @staticmethod
    @abstractmethod
    def _supports_parallel_config(moe_parallel_config):
        ...

    @staticmethod
    def _supports_shape(hidden_dim):
        return True

    @staticmethod
    def _supports_batch_invariance():
        return False

    @staticmethod
    def supports_lora():
        return False


class FusedMoEExpertsModular(FusedMoEExperts):
    @abstractmethod
    def workspace_shapes(self, M, N, K, topk, global_num_experts, local_num_experts, expert_tokens_meta, activation):
        ...

    @abstractmethod
    def finalize_weight_and_reduce_impl(self):
        ...

    @abstractmethod
    def apply(self, output, hidden_states, w1, w2, topk_weights, topk_ids, activation, global_num_experts, expert_map,
              a1q_scale, a2_scale, workspace13, workspace2, expert_tokens_meta, apply_router_weight_on_input):
        ...


class FusedMoEKernel:
    def __init__(self, prepare_finalize, fused_experts):
        self.fused_experts = fused_experts

    def apply(self, hidden_states, w1, w2, topk_weights, topk_ids, activation, global_num_experts, expert_map,
              apply_router_weight_on_input, shared_experts=None, shared_experts_input=None):
        """One workspace, in whose first bytes both workspace13 and the output are; what it held before is NaN."""
        experts = self.fused_experts
        shape13, shape2, shape_out = experts.workspace_shapes(
            hidden_states.shape[0], w1.shape[1], hidden_states.shape[1], topk_ids.shape[1], global_num_experts, w1.shape[0],
            None, activation)
        sizes = [torch.Size(s).numel() for s in (shape13, shape2, shape_out)]
        common = torch.full((max(sizes[0], sizes[2]),), float("nan"), dtype=hidden_states.dtype, device=hidden_states.device)
        output = common[:sizes[2]].view(shape_out)
        experts.apply(
            output=output, hidden_states=hidden_states, w1=w1, w2=w2, topk_weights=topk_weights, topk_ids=topk_ids,
            activation=activation, global_num_experts=global_num_experts, expert_map=expert_map, a1q_scale=None, a2_scale=None,
            workspace13=common[:sizes[0]].view(shape13), 
            workspace2=torch.full(shape2, float("nan"), dtype=hidden_states.dtype, device=hidden_states.device),
            expert_tokens_meta=None, apply_router_weight_on_input=apply_router_weight_on_input)
        return experts.finalize_weight_and_reduce_impl().apply(
            torch.empty_like(hidden_states), output, topk_weights, topk_ids, apply_router_weight_on_input)


# ---- oracle, routed_experts, unquantized_fused_moe_method


class UnquantizedMoeBackend(enum.Enum):
    FLASHINFER_CUTLASS = "FlashInfer CUTLASS"
    TRITON = "TRITON"


class RoutedExperts(torch.nn.Module):
    activation: MoEActivation
    apply_router_weight_on_input: bool
    global_num_experts: int
    expert_map: torch.Tensor


class EnginesOwn(FusedMoEExpertsModular):
    """In place of vLLM's kernels: a test sees that they are chosen, and asks for no numbers."""

    activation_format = staticmethod(lambda: FusedMoEActivationFormat.Standard)
    _supports_current_device = _supports_no_act_and_mul = staticmethod(lambda: True)
    _supports_quant_scheme = staticmethod(lambda weight_key, activation_key: True)
    _supports_activation = _supports_parallel_config = staticmethod(lambda _: True)

    def workspace_shapes(self, M, N, K, topk, global_num_experts, local_num_experts, expert_tokens_meta, activation):
        return (M, topk, max(N, K)), (M, topk, max(N, K)), (M, K)

    def finalize_weight_and_reduce_impl(self):
        return TopKWeightAndReduceNoOP()

    def apply(self, output, hidden_states, w1, w2, topk_weights, topk_ids, activation, global_num_experts, expert_map,
              a1q_scale, a2_scale, workspace13, workspace2, expert_tokens_meta, apply_router_weight_on_input):
        output.zero_()


class UnquantizedFusedMoEMethod(CustomOp):
    def __init__(self, moe):
        super().__init__()
        self.moe = moe
        self.unquantized_backend, self.experts_cls = UnquantizedMoeBackend.TRITON, EnginesOwn

    def get_fused_moe_quant_config(self, layer):
        return FusedMoEQuantConfig(*(getattr(layer, name, None) for name in ("swiglu_alpha", "swiglu_beta", "swiglu_limit")))

    def _init_moe_kernel(self, layer):
        experts = self.experts_cls(moe_config=self.moe, quant_config=self.get_fused_moe_quant_config(layer))
        self.moe_kernel = FusedMoEKernel(None, experts)

    def process_weights_after_loading(self, layer):
        self._init_moe_kernel(layer)

    def apply(self, layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input):
        return self.moe_kernel.apply(x, layer.w13_weight, layer.w2_weight, topk_weights, topk_ids, layer.activation,
                                     layer.global_num_experts, layer.expert_map, layer.apply_router_weight_on_input)
