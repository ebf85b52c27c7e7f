# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""quack's grouped GEMMs for Hopper out of a folder that scripts/compile_quack.py wrote: its compiler is not needed.

Each is called with what quack itself gives it. Of its configurations the fastest is taken for the rows at hand, outside of
a time, as is the sort of the rows by expert, for which quack has no kernel.
"""
from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
from typing import Any, Callable, NamedTuple, Sequence

import torch

PACKAGE = "quack_compiled"
SWIZZLE = 8  # tiles in a group, quack's default


class Kernel(NamedTuple):
    function: Callable[..., Any]
    cluster: int  # blocks of one

    def scheduler(self, device: torch.device) -> tuple[Any, ...]:
        """max_active_clusters, raster_order, max_swizzle_size, tile_count_semaphore, batch_idx_permute, ag."""
        return (torch.cuda.get_device_properties(device).multi_processor_count // self.cluster, None, SWIZZLE, None, None, None)


@functools.lru_cache(maxsize=1)
def kernels() -> "dict[str, list[Kernel]]":
    """Of each kind, gated and plain."""
    import tvm_ffi

    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"{PACKAGE} is not there")
    folder = pathlib.Path(list(found.submodule_search_locations)[0])
    made: dict[str, list[Kernel]] = {"gated": [], "plain": []}
    for entry in json.loads((folder / "kernels.json").read_text())["kernels"]:
        made[entry["kind"]].append(Kernel(tvm_ffi.load_module(str(folder / entry["file"]))["func"], entry["cluster"]))
    return made


class Plan(NamedTuple):
    gated: Kernel
    plain: Kernel
    token: torch.Tensor  # i32 [T K], of each row, sorted by expert
    starts: torch.Tensor  # i32 [E + 1], an expert's first row
    place: torch.Tensor  # i64 [T, K], a slot's row


def multiply_gated(kernel: Kernel, hidden: torch.Tensor, w13: torch.Tensor, planned: Plan) -> torch.Tensor:
    """SiLU(gate) * up of each row, bf16 [T K, I]."""
    rows = hidden.new_empty(len(planned.token), w13.shape[1] // 2)
    epilogue = (rows, None, None)  # output, and what split k would need
    kernel.function(hidden, w13, None, None, epilogue, kernel.scheduler(hidden.device), (planned.starts, None, planned.token, None), None, None)
    return rows


def multiply(kernel: Kernel, rows: torch.Tensor, w2: torch.Tensor, planned: Plan) -> torch.Tensor:
    """bf16 [T K, H]."""
    result = rows.new_empty(len(rows), w2.shape[1])
    epilogue = (None,) * 12  # no scale, no bias, no sum, no split k, no quantisation
    kernel.function(rows, w2, result, None, epilogue, kernel.scheduler(rows.device), (planned.starts, None, None, None), None, None)
    return result


def fastest(candidates: Sequence[Kernel], call: Callable[[Kernel], Any]) -> Kernel:
    """By the least of three runs after one."""
    def us(kernel: Kernel) -> float:
        call(kernel)
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(3)]
        for start, end in events:
            start.record()
            call(kernel)
            end.record()
        torch.cuda.synchronize()
        return float(min(start.elapsed_time(end) for start, end in events))

    return min(candidates, key=us)


def plan(ids: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor) -> Plan:
    """ids i32 [T, K]."""
    experts, order = ids.flatten().sort(stable=True)
    edges = torch.arange(len(w13) + 1, device=ids.device, dtype=ids.dtype)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=ids.device)
    known = kernels()
    planned = Plan(known["gated"][0], known["plain"][0], (order // ids.shape[1]).int(), torch.searchsorted(experts, edges).int(),
                   place.view(ids.shape))
    hidden = torch.randn(len(ids), w2.shape[1], device=ids.device).to(w2.dtype)
    gated = fastest(known["gated"], lambda kernel: multiply_gated(kernel, hidden, w13, planned))
    rows = multiply_gated(gated, hidden, w13, planned)
    return planned._replace(gated=gated, plain=fastest(known["plain"], lambda kernel: multiply(kernel, rows, w2, planned)))


def combine(rows: torch.Tensor, place: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """bf16 [T, H], weighted."""
    return (rows[place].float() * weights.unsqueeze(-1)).sum(1).to(rows.dtype)


def experts(hidden: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor, planned: Plan, weights: torch.Tensor,
            combine: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """[T, H]"""
    rows = multiply_gated(planned.gated, hidden, w13, planned)
    return combine(multiply(planned.plain, rows, w2, planned), planned.place, weights)
