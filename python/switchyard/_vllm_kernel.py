# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's Triton kernel from a vLLM that lies there but cannot be imported: a wheel that was unpacked, say.

The functions are read out of its file as they stand, and its tables of tuned tiles are used. What else a layer needs is
torch's; the alignment of rows to tiles, a kernel of vLLM's compiled part, is left to `plan`, outside of a time.
"""
from __future__ import annotations

import ast
import functools
import importlib.util
import json
import pathlib
import tempfile
from typing import Any, Callable, NamedTuple, Optional

import torch

NAMES = ("write_zeros_to_output", "fused_moe_kernel", "invoke_fused_moe_triton_kernel", "get_default_config")
# What those functions take from vLLM, for bf16 on NVIDIA and its defaults.
HEAD = """
from typing import Any
import torch
import triton
import triton.language as tl

class envs:
    VLLM_BATCH_INVARIANT = False

class current_platform:
    is_rocm = staticmethod(lambda: False)

def resolve_moe_use_td():
    return False

def warn_if_moe_use_td_ineffective(*_, **__):
    pass
"""


def folder() -> pathlib.Path:
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise ImportError("vllm is not installed")
    return pathlib.Path(list(found.submodule_search_locations)[0]) / "model_executor" / "layers" / "fused_moe"


@functools.lru_cache(maxsize=1)
def functions() -> Any:
    """A module with NAMES. Triton reads a kernel's source, so the module is a file."""
    text = (folder() / "fused_moe.py").read_text()
    lines = text.splitlines(keepends=True)
    parts = [HEAD]
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in NAMES:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            parts.append("".join(lines[first - 1:node.end_lineno]))
    path = pathlib.Path(tempfile.mkdtemp(prefix="switchyard-")) / "vllm_fused_moe_kernel.py"
    path.write_text("\n\n".join(parts))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if missing := [name for name in NAMES if not hasattr(module, name)]:
        raise ImportError(f"vLLM has no {', '.join(missing)}")
    return module


def tiles(tokens: int, sizes: tuple[int, int, int, int], device: torch.device) -> "dict[str, int]":
    """What vLLM would take: of its table for this GPU, at the nearest number of tokens; else its default."""
    h, i, e, k = sizes
    name = torch.cuda.get_device_name(device).replace(" ", "_") if device.type == "cuda" else "none"
    table = folder() / "configs" / f"E={e},N={i},device_name={name}.json"
    if table.exists():
        found = {int(m): tile for m, tile in json.loads(table.read_text()).items() if m.isdecimal()}
        return dict(found[min(found, key=lambda m: abs(m - tokens))])
    return dict(functions().get_default_config(tokens, e, i, h, k, None))


class Plan(NamedTuple):
    tile: "dict[str, int]"
    sorted_ids: Optional[torch.Tensor]  # i32, T K where a row of a tile is none; None: a tile for each slot
    experts: torch.Tensor  # i32, of each tile
    rows: torch.Tensor  # i32 [1], of all tiles


def plan(ids: torch.Tensor, sizes: tuple[int, int, int, int]) -> Plan:
    """Rows of each expert begin a tile. ids i32 [T, K]."""
    experts, slots = sizes[2], ids.numel()
    tile = tiles(len(ids), sizes, ids.device)
    size = tile["BLOCK_SIZE_M"]
    if slots * 4 <= experts:  # vLLM's bound: so few that no two are expected to share an expert
        return Plan(tile, None, ids.flatten(), torch.tensor([slots * size], dtype=torch.int32, device=ids.device))
    counts = torch.bincount(ids.flatten(), minlength=experts)
    ends = ((counts + size - 1) // size * size).cumsum(0)
    of_slot, order = ids.flatten().long().sort(stable=True)
    place = torch.arange(slots, device=ids.device) - (counts.cumsum(0) - counts)[of_slot] + torch.cat([ends.new_zeros(1), ends])[of_slot]
    sorted_ids = torch.full((int(ends[-1]),), slots, dtype=torch.int32, device=ids.device)
    sorted_ids[place] = order.int()
    of_tile = torch.searchsorted(ends, torch.arange(0, len(sorted_ids), size, device=ids.device), right=True)
    return Plan(tile, sorted_ids, of_tile.int(), ends[-1:].int())


def experts(hidden: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor, planned: Plan, weights: torch.Tensor,
            silu_and_mul: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """[T, H]: two runs of the kernel, the activation between them, and a sum over K. bf16 or f16, as hidden is."""
    import triton.language as tl

    kernel = functions().invoke_fused_moe_triton_kernel
    tokens, k = weights.shape
    compute_type = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[hidden.dtype]
    plain: dict[str, Any] = dict(compute_type=compute_type, use_fp8_w8a8=False, use_int8_w8a8=False, use_int8_w8a16=False,
                                 use_int4_w4a16=False, per_channel_quant=False)
    of_rows = (planned.sorted_ids, planned.experts, planned.rows)
    between, result = hidden.new_empty(tokens, k, w13.shape[1]), hidden.new_empty(tokens, k, w2.shape[1])
    kernel(hidden, w13, between, None, None, None, *of_rows, False, k, planned.tile, **plain)
    rows = silu_and_mul(between.view(tokens * k, -1))
    kernel(rows, w2, result, None, None, weights, *of_rows, True, 1, planned.tile, **plain)
    return result.sum(1)
