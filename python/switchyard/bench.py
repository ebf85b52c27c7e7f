# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Switchyard beside what else is installed, in one process: `python -m switchyard.bench --peers`.

Each implementation gets the same weights and rows. Its output is compared with float64 first, and only then timed: in a
CUDA graph where it can be captured, after 256 MiB were written to push its operands out of the L2 cache. Times are
medians; floors are what this device needs for the bytes or the products, at rates measured here.
"""
from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import functools
import gc
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import types
from typing import Any, Callable, Iterator, Optional, Sequence

import torch

from . import __version__, _program
from .peers import PEERS, Layer, Peer, Prepared, Skip

FLUSH_BYTES = 256 << 20  # more than any L2 cache
MOST_ERROR = 1e-2  # relative L2: beyond it an output is wrong
MODELS = ("qwen3-30b-a3b", "qwen3-235b-a22b", "qwen3-next-80b-a3b", "mixtral-8x7b", "olmoe-1b-7b", "glm-4.5-air",
          "minimax-m2", "deepseek-v3")
TOKENS = {"cuda": (1, 8, 32, 128, 512, 2048, 8192), "cpu": (1, 8, 32, 128)}
OPS = {"layer_given_routing": "experts, their routing given", "layer": "gate and experts"}


# ---- a device


class Device:
    """Times, on a CPU by its clock, on a GPU by events."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        self.is_cuda = self.torch.type == "cuda"
        self.flush = torch.zeros(FLUSH_BYTES // 4, dtype=torch.float32, device=self.torch)

    def name(self) -> str:
        if self.is_cuda:
            return str(torch.cuda.get_device_name(self.torch))
        try:
            lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            return platform.processor() or platform.machine()

    def driver(self) -> Optional[str]:
        if not self.is_cuda or not shutil.which("nvidia-smi"):
            return None
        asked = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                               text=True, check=False)
        return asked.stdout.split("\n")[0].strip() or None

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.torch)

    def captured(self, call: Callable[[], torch.Tensor]) -> tuple[Callable[[], Any], torch.Tensor, bool]:
        """The call as a graph, if it can be one: what to run, where its output will be, and whether it is."""
        output = call()
        if not self.is_cuda:
            return call, output, False
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # kernels are compiled, tuned and loaded
                output = call()
        torch.cuda.current_stream().wait_stream(stream)
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                output = call()
        except RuntimeError:  # it waits for the device, say
            self.synchronize()
            return call, call(), False
        return graph.replay, output, True

    def times_us(self, call: Callable[[], Any], repeat: int) -> list[float]:
        if not self.is_cuda:
            return [self._time_cpu(call) for _ in range(repeat)]
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeat)]
        for start, end in events:
            self.flush.zero_()
            start.record()
            call()
            end.record()
        self.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in events]

    def _time_cpu(self, call: Callable[[], Any]) -> float:
        self.flush.zero_()
        start = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - start) * 1e-3

    @functools.cached_property
    def read_gbps(self) -> float:
        """Of the faster of a sum and a copy of 1 GiB (a CPU: 256 MiB)."""
        source = torch.zeros(1 << 28, dtype=torch.float32, device=self.torch) if self.is_cuda else self.flush
        copy = torch.empty_like(source)
        times = [(source.nbytes, self.times_us(source.sum, 7)), (2 * source.nbytes, self.times_us(lambda: copy.copy_(source), 7))]
        return float(max(nbytes / min(us) * 1e-3 for nbytes, us in times))

    @functools.cached_property
    def gemm_tflops(self) -> float:
        """Of torch's product of two matrices, bf16 [8192, 8192]; on a CPU, where few multiply bf16, f32 [1024, 1024]."""
        n, dtype = (8192, torch.bfloat16) if self.is_cuda else (1024, torch.float32)
        a, b = (torch.randn(n, n, device=self.torch).to(dtype) for _ in range(2))
        torch.mm(a, b)
        return float(2 * n**3 / min(self.times_us(lambda: torch.mm(a, b), 7)) * 1e-6)


# ---- one implementation, one number of tokens


@dataclasses.dataclass(frozen=True)
class Rows:
    hidden: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    expected: torch.Tensor
    clear: torch.Tensor

    @staticmethod
    def random(layer: Layer, tokens: int, device: torch.device) -> "Rows":
        generator = torch.Generator(device).manual_seed(tokens)
        hidden = torch.randn(tokens, layer.sizes[0], generator=generator, device=device).bfloat16()
        ids, weights = layer.gate(hidden)
        return Rows(hidden, ids, weights, layer.by_definition(hidden, ids, weights), layer.is_clear(hidden))

    def error(self, output: torch.Tensor, op: str) -> float:
        """Relative L2. With a gate inside: of the rows whose experts no rounding of a gate changes."""
        difference, expected = output.double() - self.expected, self.expected
        if op == "layer" and self.clear.any():
            difference, expected = difference[self.clear], expected[self.clear]
        return float(difference.norm() / expected.norm())


def work(layer: Layer, rows: Rows, op: str) -> dict[str, Any]:
    """What any implementation reads, writes and multiplies."""
    h, i, e, k = layer.sizes
    tokens, active = len(rows.hidden), int(rows.ids.unique().numel())
    moved, products = active * 6 * h * i + 4 * tokens * h, 6 * tokens * k * h * i
    if op == "layer":
        moved, products = moved + 2 * e * h, products + 2 * tokens * e * h
    return {"active_experts": active, "bytes": float(moved), "flops": float(products)}


def call_of(prepared: Prepared, layer: Layer, rows: Rows, op: str) -> Callable[[], torch.Tensor]:
    if op == "layer_given_routing":
        ids = rows.ids.to(prepared.ids)
        if prepared.plan is not None:
            ids = prepared.plan(ids)
        return lambda: prepared.given(rows.hidden, ids, rows.weights)
    if prepared.plan is not None:
        raise Skip("it has no routing kernels here")
    if prepared.whole is not None:
        whole = prepared.whole
        return lambda: whole(rows.hidden)
    return lambda: prepared.given(rows.hidden, *layer.gate(rows.hidden, prepared.ids))


def reason_of(error: Exception) -> str:
    if isinstance(error, Skip):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def row_of(peer: Peer, layer: Layer, rows: Rows, op: str, device: Device) -> dict[str, Any]:
    """One row of the results without a time."""
    row: dict[str, Any] = {"op": op, "peer": peer.name, "tokens": len(rows.hidden), **work(layer, rows, op)}
    row["floor_us"] = max(row["bytes"] / device.read_gbps, row["flops"] / device.gemm_tflops * 1e-3) * 1e-3
    return row


def measure(row: dict[str, Any], prepared: Prepared, layer: Layer, rows: Rows, device: Device, repeat: int) -> dict[str, Any]:
    """The row with us, or with the reason why there is none."""
    op = row["op"]
    try:
        with torch.inference_mode():
            call = call_of(prepared, layer, rows, op)  # a graph reads what this holds, and does not keep it
            run, output, row["graph"] = device.captured(call)
            if row["graph"]:
                output.fill_(float("nan"))
                run()
            device.synchronize()
            row["error"] = rows.error(output, op)
            if not row["error"] <= MOST_ERROR:
                return {**row, "reason": f"wrong: error {row['error']:.1e}"}
            times = device.times_us(run, repeat)
    except Exception as error:
        return {**row, "reason": reason_of(error)}
    return {**row, "us": statistics.median(times), "us_min": min(times), "us_max": max(times)}


def is_lost(device: Device) -> bool:
    """Whether the device has a fault that ends every later call of this process."""
    try:
        device.synchronize()
    except RuntimeError:
        return True
    return False


def measure_model(sizes: tuple[int, int, int, int], peers: Sequence[Peer], tokens: Sequence[int], ops: Sequence[str],
                  device: Device, a: argparse.Namespace) -> "Iterator[dict[str, Any]]":
    layer = Layer.random(sizes, max(tokens), device.torch)
    batches = [Rows.random(layer, t, device.torch) for t in tokens]
    for peer in peers:
        start = time.monotonic()
        try:
            prepared = peer.prepare(layer)
        except Exception as error:
            yield {"peer": peer.name, "reason": reason_of(error)}
            continue
        for op in ops:
            for rows in batches:
                row = row_of(peer, layer, rows, op, device)
                if time.monotonic() - start > a.limit:  # some tune themselves for minutes
                    yield {**row, "reason": f"it had its {a.limit} s. Raise --limit"}
                    continue
                yield measure(row, prepared, layer, rows, device, a.repeat)
                if device.is_cuda and is_lost(device):
                    return
        del prepared
        gc.collect()
        if device.is_cuda:
            torch.cuda.empty_cache()


# ---- what is shown


def table(model: str, sizes: tuple[int, int, int, int], rows: Sequence[dict[str, Any]], op: str, device: Device) -> str:
    """A line for each number of tokens, a column for each peer: us, - where it was not timed; and the best peer's by ours."""
    def mark(row: dict[str, Any]) -> str:
        return "*" if row["graph"] is False and device.is_cuda else ""

    of_op = [r for r in rows if r.get("op") == op]
    names = list(dict.fromkeys(r["peer"] for r in of_op))
    lines = [["tokens", "floor us", *names, "best peer / ours"]]
    for tokens in dict.fromkeys(r["tokens"] for r in of_op):
        cells = {r["peer"]: r for r in of_op if r["tokens"] == tokens}
        floor = next(iter(cells.values()))["floor_us"]
        us = {name: row["us"] for name, row in cells.items() if "us" in row}
        others = [value for name, value in us.items() if not name.startswith("switchyard")]
        ratio = f"{min(others) / us['switchyard']:.2f}" if others and "switchyard" in us else "-"
        lines.append([str(tokens), f"{floor:.1f}", *(f"{us[n]:.1f}{mark(cells[n])}" if n in us else "-" for n in names), ratio])
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)
    return f"{model}: H {sizes[0]}, I {sizes[1]}, E {sizes[2]}, K {sizes[3]}; {OPS[op]}\n{text}\n"


def reasons(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each reason why a peer was not timed, with the tokens it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "reason" in row:
            found.setdefault((row["peer"], row["reason"]), []).append(str(row.get("tokens", "")))
    return [f"{peer}: {reason}" + (f" (tokens {', '.join(dict.fromkeys(tokens))})" if all(tokens) else "")
            for (peer, reason), tokens in found.items()]


def versions_of(packages: Sequence[str]) -> dict[str, Optional[str]]:
    """Of what is imported by these names, by the names under which it was installed."""
    distributions = importlib.metadata.packages_distributions()
    found: dict[str, Optional[str]] = {name: importlib.metadata.version(name) for p in packages for name in distributions.get(p, ())}
    return {"switchyard": __version__, **found}  # a build folder is no distribution


def sizes_of(presets: Sequence[str], shapes: Sequence[str]) -> dict[str, tuple[int, int, int, int]]:
    known = _program._answer("models", {})["presets"] if presets else {}
    found = {}
    for name in presets:
        if name not in known:
            raise _program.WrongUsage(f"preset: name={name}, known are {', '.join(known)}.")
        p = known[name]
        found[name] = (p["hidden"], p["intermediate"], p["experts"], p["top_k"])
    for shape in shapes:
        numbers = tuple(int(n) for n in shape.split(",") if n.isdecimal())
        if len(numbers) != 4 or not 0 < numbers[3] <= numbers[2]:
            raise _program.WrongUsage(f"shape: {shape}, need H,I,E,K.")
        found[shape] = (numbers[0], numbers[1], numbers[2], numbers[3])
    return found


def chosen_peers(names: Sequence[str]) -> list[Peer]:
    known = {peer.name: peer for peer in PEERS}
    if unknown := [name for name in names if name not in known]:
        raise _program.WrongUsage(f"peers: name={unknown[0]}, known are {', '.join(known)}.")
    return [known[name] for name in names] if names else list(PEERS)


def why_missing(peer: Peer, device: Device) -> Optional[str]:
    if not device.is_cuda and not peer.on_cpu:
        return "needs a GPU"
    return None if importlib.util.find_spec(peer.package) else f"{peer.package} is not installed"


def arguments_of(words: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m switchyard.bench", description="Switchyard beside what else is installed: the same rows, checked, then timed.",
        epilog="Models have the sizes of the presets of `switchyard models`, random weights, SiLU, softmax top-k.")
    def words_of(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    parser.add_argument("--peers", nargs="?", default="", const="", metavar="NAME,...", type=words_of,
                        help=f"of {', '.join(peer.name for peer in PEERS)}; all if none are named")
    parser.add_argument("--preset", metavar="NAME,...", type=words_of, help=f"models; default {','.join(MODELS)}")
    parser.add_argument("--shape", metavar="H,I,E,K", action="append", default=[], help="a model by its sizes; may be repeated")
    parser.add_argument("--tokens", metavar="N,...", type=lambda text: [int(word) for word in text.split(",")],
                        help="default: 1 to 8192 on a GPU, 1 to 128 on a CPU")
    parser.add_argument("--gate", choices=("out", "in", "both"), default="both", help="routing given, chosen inside, or both")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=30, help="times of which the median is shown")
    parser.add_argument("--limit", type=int, default=120, metavar="SECONDS", help="of a peer for one model; tuning counts")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results, in the form of results files")
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE")
    a = parser.parse_args(words)
    if min(a.repeat, a.limit, *(a.tokens or ())) < 1:
        parser.error("--repeat, --limit and --tokens need numbers of at least 1")
    return a


def write(results: dict[str, Any], a: argparse.Namespace) -> None:
    if a.json:
        a.json.write_text(json.dumps(results, indent=1) + "\n")
    if a.csv:
        rows = [{"model": model, **row} for model, run in results["bench"].items() for row in (*run["rows"], *run["not_timed"])]
        with open(a.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


def head_of(device: Device, module: str, packages: Sequence[str]) -> dict[str, Any]:
    """What begins a results file of this package's `module`."""
    return {
        "gpu" if device.is_cuda else "device": device.name(), "driver": device.driver(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": f"python -m switchyard.{module} {shlex.join(sys.argv[1:])}",
        "versions": {**versions_of(packages), "torch": torch.__version__, "python": platform.python_version(),
                     "cuda": torch.version.cuda if device.is_cuda else None}}


def run(a: argparse.Namespace) -> dict[str, Any]:
    device = Device(a.device)
    chosen = chosen_peers(a.peers)
    missing = {peer.name: reason for peer in chosen if (reason := why_missing(peer, device))}
    peers = [peer for peer in chosen if peer.name not in missing]
    models = sizes_of((a.preset or []) if a.preset is not None or a.shape else MODELS, a.shape)
    tokens = a.tokens or TOKENS[a.device]
    ops = [op for op, where in (("layer_given_routing", "out"), ("layer", "in")) if a.gate in (where, "both")]
    head = head_of(device, "bench", [*(peer.package for peer in peers), "triton"])
    versions = head["versions"]
    results: dict[str, Any] = {**head, "missing": missing, "bench": {}}
    print(f"{device.name()}: read {device.read_gbps:.0f} GB/s, products {device.gemm_tflops:.3g} TFLOP/s; medians of {a.repeat}, cold L2")
    print("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version))
    print("".join(f"left out: {name}, {reason}\n" for name, reason in missing.items()), flush=True)
    for model, sizes in models.items():
        rows: list[dict[str, Any]] = []
        of_model = results["bench"][model] = {
            "layer": f"{'preset ' if model not in a.shape else ''}{model}, random weights", "device": device.name(),
            "config": dict(zip(("hidden", "intermediate", "experts", "top_k"), sizes)), "l2": "cold", "repeat": a.repeat,
            "routing": "random", "read_gbps": device.read_gbps, "gemm_tflops": device.gemm_tflops,
            "version": __version__, "rows": [], "not_timed": []}
        for row in measure_model(sizes, peers, tokens, ops, device, a):
            rows.append(row)
            of_model["rows" if "us" in row else "not_timed"].append(row)
            write(results, a)  # what there is, should a peer end the process
            if sys.stderr.isatty():
                print(f"\r{model} {row['peer']} {row.get('tokens', '')}\033[K", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        for op in ops:
            print(table(model, sizes, rows, op, device))
        if device.is_cuda and any(row.get("graph") is False for row in rows):
            print("  * not in a CUDA graph, so with its launches")
        for line in reasons(rows):
            print(f"  not timed: {line}")
        print(flush=True)
        if device.is_cuda and is_lost(device):
            raise _program.ProgramFailed(f"bench: {rows[-1]['peer']} left the device with a fault, which ends this process. Leave it out.")
        if device.is_cuda:
            torch.cuda.empty_cache()
    return results


def main(words: Optional[Sequence[str]] = None) -> int:
    a = arguments_of(words)
    try:
        run(a)
    except (_program.WrongUsage, _program.ProgramFailed) as error:
        print(f"switchyard.bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, _program.WrongUsage) else 1
    return 0


class _Module(types.ModuleType):
    """The package has a function of this name; whoever imports the module finds one there still."""

    def __call__(self, **options: Any) -> "dict[str, Any]":
        return _program.bench(**options)


if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__].__class__ = _Module
