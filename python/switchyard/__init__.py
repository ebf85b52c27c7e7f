# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Switchyard: the experts of a Mixture-of-Experts layer, in bf16 and fp8, on CPUs and GPUs.

    import switchyard
    layer = switchyard.MoeLayer.from_pretrained(folder, 1, max_tokens=512)
    output = layer.forward(hidden)

Letters: T tokens, H hidden size, I intermediate size of an expert, E experts, K experts per token.
"""
from ._array import Array
from ._errors import (BadFile, BadRouting, BadState, Cuda, Error, Misaligned, ShapeMismatch, Transport, Unsupported)
from ._native import (VERSION as __version__, Activation, Backend, Checkpoint, Communicator, Difference, ExpertFormat, GateConfig, GateUpOrder, GroupScore,
                      LayerOptions, LayerWeights, LinearAttention, MoeConfig, MoeLayer, OutOfRangeIds, Placement, RoutedPathConfig, ScaleBlock,
                      Scoring, SharedExpertConfig, SharedWorkspace, Strategy, Tensor, TensorFile, compare, forget_fused_experts, fp8_blocks,
                      fused_experts, gate, make_cpu_backend, make_cuda_backend, make_local_ranks, make_process_rank, oracle_forward,
                      plan_placement, random_weights, to_device, wait_fused_experts, weights_of_slots, workspace_bytes)
from ._program import ProgramFailed, WrongUsage, bench, check, explain, plan

__all__ = [
    "Activation", "Array", "Backend", "BadFile", "BadRouting", "BadState", "Checkpoint", "Communicator", "Cuda", "Difference", "Error",
    "ExpertFormat", "GateConfig", "GateUpOrder", "GroupScore", "LayerOptions", "LayerWeights", "LinearAttention", "Misaligned",
    "MoeConfig", "MoeLayer", "OutOfRangeIds", "Placement", "ProgramFailed", "RoutedPathConfig", "ScaleBlock", "Scoring", "ShapeMismatch",
    "SharedExpertConfig", "SharedWorkspace", "Strategy", "Tensor", "TensorFile", "Transport", "Unsupported",
    "WrongUsage", "__version__", "bench", "check", "compare", "explain", "forget_fused_experts", "fp8_blocks", "fused_experts", "gate",
    "make_cpu_backend", "make_cuda_backend", "make_local_ranks", "make_process_rank", "oracle_forward", "plan", "plan_placement",
    "random_weights", "to_device", "wait_fused_experts", "weights_of_slots", "workspace_bytes",
]
