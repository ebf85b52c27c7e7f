#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Writes src/strategy/gemm_table.cc: configurations of grouped GEMMs that were measured to be faster than the rule's.

    scripts/gemm_table.py            writes it from every file of bench/results that has a section `tune`
    scripts/gemm_table.py --check    writes nothing; ends with 1 if it is stale

The section is what `scripts/gpu_check.sh tune` leaves: runs of `switchyard bench --tune --json`.
"""
import argparse
import json
import pathlib
import re
import sys

RESULTS, TABLE = "bench/results", "src/strategy/gemm_table.cc"
OPERANDS = {"bf16": "OperandKind::Bf16", "f8_e4m3": "OperandKind::F8E4m3"}

HEAD = """// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/gemm_table.cc -- written by scripts/gemm_table.py from bench/results. Not edited by hand.
#include "strategy/gemm_choice.h"

namespace switchyard {
"""
EMPTY = """
std::span<const TunedGpu> tuned_gpus() {
  return {};
}
"""
GPUS = """constexpr TunedGpu kGpus[] = {
%s
};
// clang-format on

}  // namespace

std::span<const TunedGpu> tuned_gpus() {
  return kGpus;
}
"""


def tuned_runs(root):
    """The name of each run, its file, and what it says."""
    for path in sorted((root / RESULTS).glob("*.json")):
        results = json.loads(path.read_text())
        if isinstance(results, dict):
            for name, run in results.get("tune", {}).items():
                if isinstance(run, dict) and "gemms" in run:
                    yield name, f"{RESULTS}/{path.name}", run


def entry(run, gemm):
    gated = "true" if gemm["gated"] else "false"
    return (f'{OPERANDS[run["experts"]]}, {gemm["experts"]}, {gemm["n"]}, {gemm["k"]}, {gated}, {gemm["rows"]}', gemm["best"])


def constant(device):
    return "k" + "".join(word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", device))


class Gpu:
    """What was measured of one GPU. A shape is of one run."""

    def __init__(self, run):
        self.device, self.num_sms, self.read_gbps = run["device"], run["num_sms"], run["read_gbps"]
        self.lines, self.seen = [], {}

    def add(self, name, file, run):
        lines, keys = [], set()
        for gemm in run["gemms"]:
            key, best = entry(run, gemm)
            if self.seen.setdefault(key, (file, name)) != (file, name):
                raise ValueError(f"{file}: run={name}, {key} of {self.device} is in {self.seen[key][0]}, too. Keep one of them.")
            if key in keys:  # without a gate both GEMMs of a square expert are one shape
                continue
            keys.add(key)
            if gemm["in_table"]:
                lines.append(f'    {{{key}, "{best}"}},')
        if lines:
            self.lines += [f'    // {name}, {file}, {run["date"][:10]}', *lines]

    def array(self):
        return "\n".join([f"constexpr TunedGemm {constant(self.device)}[] = {{", *self.lines, "};"])

    def row(self):
        return f'    {{"{self.device}", {self.num_sms}, {self.read_gbps:.1f}, {constant(self.device)}}},'


def table(root):
    gpus = {}
    for name, file, run in tuned_runs(root):
        gpus.setdefault(run["device"], Gpu(run)).add(name, file, run)
    gpus = [gpu for gpu in gpus.values() if gpu.lines]
    body = EMPTY
    if gpus:
        body = "\n".join(["namespace {", "", "// clang-format off", *(gpu.array() for gpu in gpus),
                          GPUS % "\n".join(gpu.row() for gpu in gpus)])
    return f"{HEAD}{body}\n}}  // namespace switchyard\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if the table is stale")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    try:
        text = table(root)
    except ValueError as fault:
        print(f"gemm_table: {fault}", file=sys.stderr)
        return 2
    path = root / TABLE
    if path.exists() and path.read_text() == text:
        print(f"{TABLE}: fresh")
        return 0
    if arguments.check:
        print(f"{TABLE}: stale, run scripts/gemm_table.py")
        return 1
    path.write_text(text)
    print(f"{TABLE}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
