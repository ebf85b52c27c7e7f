# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""What a call costs the host beyond that of C++: `python -m switchyard.overhead`.

One token, routing given. Calls come in bursts too short to fill the device's queue, each kind in turn, and the device
is waited for between bursts, outside of the time.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
from typing import Any, Callable, Optional, Sequence

import torch

import switchyard

from .bench import Device, head_of, sizes_of
from .peers import Layer

CALLS = 100  # of a burst: some 400 kernels, where a queue holds 1024
CPP = "C++ MoeLayer::forward"


def bursts_of(device: torch.device, sizes: tuple[int, int, int, int]) -> dict[str, Callable[[int], float]]:
    """Seconds of the host in so many calls, by the name of what is called."""
    from . import torch as _torch  # noqa: F401  # the operations

    h, i, e, k = sizes
    weights = Layer.random(sizes, 1, device)
    config = switchyard.MoeConfig(hidden=h, intermediate=i, num_experts=e, top_k=k)
    layer = switchyard.MoeLayer(config, switchyard.LayerWeights(weights.w13, weights.w2, switchyard.GateUpOrder.GateUp), max_tokens=1)
    hidden = torch.randn(1, h, device=device).bfloat16()
    ids, chosen = weights.gate(hidden)
    output = torch.empty_like(hidden)
    experts = (hidden, weights.w13, weights.w2, ids, chosen)
    op, op_out = torch.ops.switchyard.fused_experts.default, torch.ops.switchyard.fused_experts_out.default

    def timed(call: Callable[[], Any]) -> Callable[[int], float]:
        def burst(calls: int) -> float:
            start = time.perf_counter_ns()
            for _ in range(calls):
                call()
            return (time.perf_counter_ns() - start) * 1e-9
        return burst

    return {
        CPP: lambda calls: float(layer._time_forward(hidden, output, ids, chosen, calls)),  # type: ignore[attr-defined]
        "MoeLayer.forward, output given": timed(lambda: layer.forward(hidden, output=output, ids=ids, weights=chosen)),
        "MoeLayer.forward": timed(lambda: layer.forward(hidden, ids=ids, weights=chosen)),
        "fused_experts_out": timed(lambda: op_out(*experts, order="gate_up", out=output)),
        "fused_experts": timed(lambda: op(*experts, order="gate_up")),
        "fused_experts under no_grad": timed(lambda: op(*experts, order="gate_up")),
    }


def measure(device: torch.device, sizes: tuple[int, int, int, int], repeat: int) -> list[dict[str, Any]]:
    """us of one call: the median of bursts, and the least and most."""
    bursts = bursts_of(device, sizes)
    times: dict[str, list[float]] = {name: [] for name in bursts}
    for _ in range(repeat + 1):
        for name, burst in bursts.items():
            with torch.no_grad() if name.endswith("no_grad") else torch.inference_mode():
                times[name].append(burst(CALLS) / CALLS * 1e6)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    medians = {name: statistics.median(us[1:]) for name, us in times.items()}  # the first makes descriptors
    return [{"call": name, "us": medians[name], "us_min": min(times[name][1:]), "us_max": max(times[name][1:]),
             "over_cpp_us": medians[name] - medians[CPP]} for name in bursts]


def main(words: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m switchyard.overhead", description="What a call of one token costs the host beyond that of C++.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", metavar="H,I,E,K", default="2048,768,128,8")
    parser.add_argument("--repeat", type=int, default=100, help="bursts of each kind, of which the median is shown")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results, in the form of results files")
    a = parser.parse_args(words)
    (sizes,) = sizes_of([], [a.shape]).values()
    device = Device(a.device)
    rows = measure(device.torch, sizes, a.repeat)
    print(f"{device.name()}, torch {torch.__version__}: us of the host in a call of one token, H,I,E,K {a.shape}; medians of {a.repeat} bursts of {CALLS}")
    for row in rows:
        print(f"{row['call']:32}{row['us']:8.2f}{row['over_cpp_us']:+8.2f}   ({row['us_min']:.2f} to {row['us_max']:.2f})")
    if a.json:
        a.json.write_text(json.dumps({**head_of(device, "overhead", []), "overhead": {"rows": rows}}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
