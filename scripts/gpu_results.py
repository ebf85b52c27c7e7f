#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Writes what a step of scripts/gpu_check.sh left into the results file, and prints it as a short table."""
import argparse
import datetime
import json
import pathlib
import re
import statistics
import subprocess
import sys

TEST_LINE = re.compile(r"^\[ *(RUN|OK|FAILED|SKIPPED) *\] (\S+\.[^\s,]+)", re.M)
FAILURE_LINE = re.compile(r"^\S+:\d+: Failure$", re.M)
SUMMARY = re.compile(r"^=+ ((?:ERROR|RACECHECK|LEAK) SUMMARY: .*)$", re.M)


def last_line(path):
    lines = path.read_text().strip().splitlines() if path.exists() else []
    return lines[-1] if lines else ""


def of_tests(folder):
    """A shard of the test program each: <number>.log of GoogleTest, <number>.end with its exit code."""
    of = {"RUN": set(), "OK": set(), "FAILED": set(), "SKIPPED": set()}
    for log in sorted(folder.glob("[0-9]*.log")):
        running, text = None, log.read_text(errors="replace")
        for line in TEST_LINE.finditer(text):
            word, name = line.groups()
            running = name if word == "RUN" else None
            of[word].add(name)
        code = log.with_suffix(".end").read_text().strip()
        if running or code not in ("0", "1"):  # 1 says that a test failed
            had_failed = running and FAILURE_LINE.search(text, line.end())
            of["FAILED"].add(f"{running or 'shard ' + log.stem}: {'failed, and ' if had_failed else ''}ended with {code}")
    return {"filter": (folder / "filter").read_text().strip(),
            "passed": len(of["OK"]), "failed": len(of["FAILED"]), "skipped": len(of["SKIPPED"]),
            "failures": sorted(of["FAILED"]), "skips": sorted(of["SKIPPED"])}


def tests(state):
    return {**of_tests(state / "tests"), "check": last_line(state / "tests" / "check.log")}


def peers(state):
    return of_tests(state / "peers")


def sanitize(state):
    verdicts = {}
    for end in sorted((state / "sanitize").glob("*.end")):
        code, seconds, gtest_filter = end.read_text().splitlines()
        log = end.with_suffix(".log").read_text(errors="replace")
        passed = re.findall(r"^\[  PASSED  \] (.*)$", log, re.M)
        verdicts[end.stem] = {
            "summary": SUMMARY.findall(log),
            "verdict": {"0": "good", "124": "stopped by the time limit"}.get(code, f"exit code {code}"),
            "tests": passed[-1] if passed else "",
            "filter": gtest_filter,
            "seconds": int(seconds),
        }
    return verdicts


def read_run(path):
    text = path.read_text().strip()
    if text.startswith("{"):
        return json.loads(text)
    return {"error": last_line(path.with_suffix(".err")) or "no result", "rows": []}


def merged(runs):
    """One run with the medians of all; a row's times in each stay beside it as us_of_runs."""
    failed = next((run for run in runs if "error" in run), None)
    if failed or len(runs) == 1:
        return failed or runs[0]
    result = dict(runs[0], runs=len(runs))
    for rate in [rate for rate in ("copy_gbps", "read_gbps", "gemm_tflops", "sm_clock_mhz") if rate in result]:
        result[rate] = statistics.median(run[rate] for run in runs)
    result["sm_clock_mhz_of_runs"] = [run["sm_clock_mhz"] for run in runs]

    def key(row):
        return row["op"], row["strategy"], row["layout"], row["tokens"]
    rows = {}
    for run in runs:
        for row in run["rows"]:
            rows.setdefault(key(row), []).append(row)
    result["rows"] = [dict(same[0],
                           us=statistics.median(r["us"] for r in same),
                           us_min=min(r["us_min"] for r in same), us_max=max(r["us_max"] for r in same),
                           floor_us=statistics.median(r["floor_us"] for r in same),
                           us_of_runs=[r["us"] for r in same])
                      for same in rows.values()]
    for checks in ("checks", "refusals"):
        if checks in result:
            result[checks] = [check for run in runs for check in run[checks]]
    return result


def bench(state):
    """Folders bench/1, bench/2 ...: a run each, with a file for each model."""
    runs = {}
    for path in sorted((state / "bench").glob("*/*.json")):
        runs.setdefault(path.stem, []).append(read_run(path))
    return {name: merged(of_name) for name, of_name in sorted(runs.items())}


def ranks(state):
    runs = {}
    for path in sorted((state / "ranks").glob("*/*.json")):
        runs.setdefault(path.stem, []).append(read_run(path))
    section = {name: merged(of_name) for name, of_name in sorted(runs.items())}
    if nccl := read_object(state / "nccl.json"):
        section["nccl"] = nccl
    return section


def tune(state):
    return {path.stem: read_run(path) for path in sorted((state / "tune").glob("*.json"))}


def read_object(path):
    text = path.read_text().strip() if path.exists() else ""
    return json.loads(text) if text.startswith("{") else None


def gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        name, driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0].split(", ")
        return {"gpu": name, "driver": driver}
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return {}


def print_tests(section):
    print("  ".join(f"{word} {section[word]}" for word in ("passed", "failed", "skipped")))
    if "check" in section:
        print(f"check: {section['check']}")
    for name in section["failures"]:
        print(f"FAILED {name}")


def print_sanitize(section):
    for tool, verdict in section.items():
        print(f"{tool:10} {verdict['verdict']:28} {'; '.join(verdict['summary']) or 'no summary'} ({verdict['tests']})")


def print_bench(section):
    print(f"{'model':20} {'tokens':>6} {'contiguous':>16} {'masked':>16} {'hybrid':>16}   us (x floor) of the layer given routing")
    for model, run in section.items():
        if "error" in run:
            print(f"{model:20} {run['error']}")
            continue
        rows = {(r["tokens"], r["strategy"].split("+")[1] if "+" in r["strategy"] else r["strategy"]): r
                for r in run["rows"] if r["op"] == "layer_given_routing"}
        for t in sorted({tokens for tokens, _ in rows}):
            cells = []
            for strategy in ("contiguous", "masked", "hybrid"):
                row = rows.get((t, strategy))
                cells.append(f"{row['us']:.1f} ({row['us'] / row['floor_us']:.2f})" if row else "-")
            print(f"{model:20} {t:6} " + " ".join(f"{c:>16}" for c in cells))
        for check in run.get("checks", []):
            if check["failed"]:
                print(f"{model:20} {check['tokens']:6} {check['strategy']}: FAILED, {check['problem']}")
    first = next((run for run in section.values() if "copy_gbps" in run), None)
    if first:
        print(f"{first['device']}, driver {first['driver']}: copy {first['copy_gbps']:.0f} GB/s, read {first['read_gbps']:.0f} GB/s, "
              f"cuBLAS {first['gemm_tflops']:.0f} TFLOP/s, SM clock {first['sm_clock_mhz']:.0f} MHz")


def print_linear_attention(run):
    print(f"{'operation':20} {'batch':>6} {'tokens':>6} {'us':>9} {'floor us':>9} {'x floor':>8}   the smallest step takes {run['smallest_us']:.1f} us")
    for r in run["rows"]:
        print(f"{r['op']:20} {r['batch']:6} {r['tokens']:6} {r['us']:9.1f} {r['floor_us']:9.1f} {r['us'] / r['floor_us']:8.2f}")


def print_ranks(section):
    print(f"{'model':24} {'tokens':>6} {'strategy':28} {'part':20} {'us':>9} {'floor us':>9} {'x floor':>8}")
    for model, run in section.items():
        for r in run.get("rows", []):
            if "floor_us" not in r:  # a collective of NCCL
                continue
            floor = f"{r['floor_us']:9.1f} {r['us'] / r['floor_us']:8.2f}" if r["floor_us"] > 0 else f"{'-':>9} {'-':>8}"
            print(f"{model:24} {r['tokens']:6} {r['strategy']:28} {r['op']:20} {r['us']:9.1f} {floor}")
    for r in section.get("nccl", {}).get("rows", []):
        print(f"{'nccl':24} {r['rows']:6} {'x ' + str(r['hidden']):28} {r['op']:20} {r['us']:9.1f}")


def print_tune(section):
    for model, run in section.items():
        if "error" in run:
            print(f"{model:24} {run['error']}")
        for gemm in run.get("gemms", []):
            if gemm["in_table"]:
                print(f"{model:24} {gemm['tokens']:6} GEMM{gemm['gemm']} {gemm['gain']:6.3f}  {gemm['best']}, not {gemm['by_rule']}")
        for problem in run.get("problems", []):
            print(f"{model:24} FAILED, {problem}")


STEPS = {  # what a step left -> a section of the file, and how that is printed
    "tests": (tests, print_tests),
    "peers": (peers, print_tests),
    "sanitize": (sanitize, print_sanitize),
    "bench": (bench, print_bench),
    "ranks": (ranks, print_ranks),
    "tune": (tune, print_tune),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("state", type=pathlib.Path)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("commit")
    a = parser.parse_args()
    read, print_section = STEPS[a.step]
    section = read(a.state)

    results = json.loads(a.results.read_text()) if a.results.exists() else {}
    results.update(gpu())
    results.update(date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), commit=a.commit)
    if a.step == "bench":  # runs of other models stay
        results["bench"] = {**results.get("bench", {}), **section}
        for run in section.values():
            results.setdefault("gpu", run.get("device"))
            results.setdefault("driver", run.get("driver"))
        if run := read_object(a.state / "linear_attention.json"):
            results["linear_attention"] = run
            print_linear_attention(run)
    else:
        results[a.step] = {"commit": a.commit, **section}
        if a.step == "tune":
            results.setdefault("gpu", next((run["device"] for run in section.values() if "device" in run), None))
    a.results.parent.mkdir(parents=True, exist_ok=True)
    a.results.write_text(json.dumps(results, indent=1) + "\n")
    print_section(section)


if __name__ == "__main__":
    sys.exit(main())
