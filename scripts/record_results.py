#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the checks and benchmarks of a build and writes one results file: date, commit, machine, rows.

    scripts/record_results.py build/cpu bench/results/cpu.json
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def output(*command):
    return subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True, text=True).stdout


def grouped_gemm(build):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.json"
        output(build / "bench/bench_grouped_gemm", "--json", path)
        return json.loads(path.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="folder of a finished build")
    parser.add_argument("results", type=pathlib.Path, help="file to write")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    program = build / "switchyard"

    check = output(program, "check").strip().splitlines()[-1]
    layer = json.loads(output(program, "bench", "--preset", "olmoe-1b-7b", "--tokens", "1,32,512", "--json"))
    results = {
        "date": datetime.date.today().isoformat(),
        "commit": output("git", "describe", "--always", "--dirty").strip(),
        "machine": layer["device"],
        "command": "scripts/record_results.py " + " ".join(sys.argv[1:]),
        "check": check,
        "grouped_gemm": grouped_gemm(build),
        "layer": layer,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
