#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that every #include respects the levels of the house (docs/design/architecture.md).

A file includes its own folder, folders of lower levels and public headers; never sideways, never up.
Public headers include the standard library and each other. Third-party headers have one home each. Public headers open
the namespace with default visibility: what they declare is what a shared library exports, everything else is hidden.
"""
import argparse
import pathlib
import re
import sys

LEVEL = {"base": 0, "plan": 1, "ops": 2, "strategy": 2, "device": 2, "cpu": 3, "cuda": 3, "comm": 3, "weights": 3,
         "gate": 4, "dispatcher": 4, "executor": 4, "linear_attention": 4, "layer": 5, "c_api": 6}
# Header prefix -> folders that may include it.
HOMES = {"nlohmann/": {"src/weights", "cli", "bench", "tests"}, "hwy/": {"src/cpu"}, "fmt/": {"cli", "bench"},
         "CLI/": {"cli", "bench"}, "nanobind/": {"python"}, "cuda_": {"src/device", "src/cuda", "src/comm", "bench", "tests"}, "cuda.h": {"src/device", "src/cuda", "src/comm"},
         "cudaTypedefs.h": {"src/cuda"}, "cublas": {"src/cuda", "src/device"},
         "mpi.h": {"src/comm"}, "nccl.h": {"src/comm"}}
VISIBLE = 'namespace [[gnu::visibility("default")]] switchyard {'
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := INCLUDE.match(line):
            yield number, match.group(1) == '"', match.group(2)


def fault(place, quoted, header):
    """Why a file in folder `place` (such as src/cpu) may not include `header`; None if it may."""
    for prefix, homes in HOMES.items():
        if header.startswith(prefix):
            return None if place in homes or place.split("/")[0] in homes else f"its home is {', '.join(sorted(homes))}"
    if header.startswith("switchyard/"):
        return None
    if place == "include/switchyard":
        return "public headers use the standard library and switchyard/ only" if quoted or "/" in header else None
    top = header.split("/")[0]
    if top not in LEVEL or "/" not in header:
        return None  # the standard library, or a file of the same folder
    if place in ("cli", "python", "examples"):
        return "the command line sees public headers only"
    if not place.startswith("src/"):
        return None  # tests and benchmarks look inside
    own = place.split("/")[1]
    if top == own or LEVEL[top] < LEVEL[own]:
        return None
    return f"{own} (level {LEVEL[own]}) may not include {top} (level {LEVEL[top]})"


def faults(root):
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.suffix not in (".h", ".cc", ".cu", ".cuh") or parts[0] not in ("include", "src", "cli", "python", "bench", "tests", "examples"):
            continue
        place = "/".join(parts[:2]) if parts[0] in ("include", "src") else parts[0]
        if parts[0] == "src" and parts[1] not in LEVEL:
            yield f"{'/'.join(parts)}: folder {parts[1]} has no level"
            continue
        if place == "include/switchyard" and re.search(r"^namespace switchyard\b", path.read_text(), re.M):
            yield f'{"/".join(parts)}: the namespace is not opened as {VISIBLE}, a shared library would hide it'
        for number, quoted, header in includes(path):
            if why := fault(place, quoted, header):
                yield f"{'/'.join(parts)}:{number}: {header}: {why}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    found = list(faults(parser.parse_args().root))
    for line in found:
        print(line)
    print(f"layers: {'good' if not found else f'{len(found)} faults'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
