#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Line coverage of the tests, by folder and in total, from a build with --coverage whose tests have run.

    scripts/coverage.py build/coverage
    scripts/coverage.py build/coverage --lines src/weights     also every line there that no test reached

`make coverage` builds, runs the tests and calls this. It fails below TOTAL percent in total or FOLDER in a folder. What
runs on GPUs, or over NCCL between them, is left out by name. Needs gcovr.
"""
import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys

TOTAL, FOLDER = 92, 85
COUNTED = re.compile(r"^(src/[a-z_]+|cli|include/switchyard)/")
# Files that only a GPU runs. Folders and files that a build without CUDA does not compile have no lines in any case.
GPU_ONLY = re.compile(r"^(src/cuda/|src/device/cuda_|src/comm/nccl|cli/bench_(cuda|gpu|ranks|tune)\.cc$)")


def measured(root, build, jobs):
    """{file: {line: how often it ran}} of everything that was compiled."""
    command = ["gcovr", "--root", str(root), "--object-directory", str(build), "--json", "-", "-j", str(jobs),
               "--gcov-ignore-parse-errors", "--exclude-throw-branches", "--filter", r"(src|cli|include)/", str(build)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"coverage: gcovr ended with {result.returncode}. {result.stderr.strip()[-400:]}")
    return lines_of(json.loads(result.stdout))


def lines_of(report):
    files = collections.defaultdict(dict)
    for one in report["files"]:
        for line in one["lines"]:
            if not line.get("gcovr/noncode", False):
                number = line["line_number"]
                files[one["file"]][number] = files[one["file"]].get(number, 0) + line["count"]
    return files


def by_folder(files):
    """[(folder, lines, lines that ran)], without what only a GPU runs."""
    folders = collections.defaultdict(lambda: [0, 0])
    for name, lines in files.items():
        place = COUNTED.match(name)
        if place and not GPU_ONLY.match(name):
            folders[place.group(1)][0] += len(lines)
            folders[place.group(1)][1] += sum(count > 0 for count in lines.values())
    return [(folder, total, ran) for folder, (total, ran) in sorted(folders.items()) if total]


def table(rows):
    out = [f"{'folder':<24}{'lines':>8}{'reached':>9}{'%':>8}{'limit':>7}"]
    for name, total, ran, limit in rows:
        note = "" if 100 * ran >= limit * total else "  below"
        out.append(f"{name:<24}{total:>8}{ran:>9}{100 * ran / total:>8.1f}{limit:>7}{note}")
    return "\n".join(out)


def missed(files, prefix):
    for name in sorted(files):
        if not name.startswith(prefix) or GPU_ONLY.match(name):
            continue
        lines = sorted(number for number, count in files[name].items() if not count)
        if lines:
            yield f"{name}: {', '.join(map(str, lines))}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--lines", metavar="PREFIX", help="name the lines of these files that no test reached")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    files = measured(root, args.build.resolve(), args.jobs)
    folders = by_folder(files)
    if not folders:
        sys.exit(f"coverage: {args.build} has no counters. Build with the preset `coverage` and run the tests.")
    rows = [(name, total, ran, FOLDER) for name, total, ran in folders]
    rows.append(("total", sum(r[1] for r in rows), sum(r[2] for r in rows), TOTAL))
    if args.lines is not None:
        print("\n".join(missed(files, args.lines)))
    print(table(rows))
    left_out = sorted({name for name in files if GPU_ONLY.match(name)})
    print("left out, as only a GPU runs them: src/cuda, src/device/cuda_*, src/comm/nccl*, " +
          ", ".join(n for n in left_out if n.startswith("cli/")))
    below = [name for name, total, ran, limit in rows if 100 * ran < limit * total]
    if below:
        sys.exit(f"coverage: {', '.join(below)} below the limit. scripts/coverage.py --lines PREFIX names the lines.")


if __name__ == "__main__":
    main()
