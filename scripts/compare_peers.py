#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Our layer beside measured opponents, shape by shape.

    scripts/compare_peers.py bench/results/h100.json bench/results/h100_peers.tsv

Lines of the file of peers that begin with # say how it was measured. Its columns: model, tokens, active_experts, floor_us, triton_layer_us, deepgemm_contiguous_layer_us,
deepgemm_masked_layer_us ("-" where there is none). Each time is divided by the floor of its own run, so that other random routing
and another card cancel out; a ratio above 1 says that ours is faster.
"""
import argparse
import csv
import json
import math
import pathlib
import sys

LAYOUTS = ("contiguous", "masked")


def executor(strategy):
    names = [part for part in strategy.split("+") if part in LAYOUTS + ("hybrid",)]
    return names[0] if names else strategy


def our_times(results):
    """(model, tokens) -> executor -> (us, times the floor)."""
    times = {}
    for model, run in results["bench"].items():
        for row in run["rows"]:
            if row["op"] == "layer_given_routing" and row["floor_us"] > 0:
                times.setdefault((model, row["tokens"]), {})[executor(row["strategy"])] = (row["us"], row["us"] / row["floor_us"])
    return times


def peer_times(path):
    with open(path, newline="") as file:
        for row in csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"):
            floor = float(row["floor_us"])

            def over_floor(name):
                value = row.get(name, "-")
                return None if value in ("-", "", None) else (float(value), float(value) / floor)
            deepgemm = [t for t in map(over_floor, ("deepgemm_contiguous_layer_us", "deepgemm_masked_layer_us")) if t]
            yield row["model"], int(row["tokens"]), over_floor("triton_layer_us"), min(deepgemm) if deepgemm else None


def cell(time):
    return f"{time[0]:9.1f} {time[1]:5.2f}" if time else f"{'-':>9} {'-':>5}"


def ratio(peer, ours):
    return peer[1] / ours[1] if peer and ours else None


def mean(ratios):
    values = [math.log(r) for r in ratios if r]
    return math.exp(sum(values) / len(values)) if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("peers", type=pathlib.Path)
    arguments = parser.parse_args()
    ours = our_times(json.loads(arguments.results.read_text()))

    print(f"{'model':20} {'tokens':>6} | {'best us':>9} {'floor':>5} {'layout':10} | {'hybrid us':>9} {'floor':>5} | {'triton us':>9} {'floor':>5} "
          f"| {'deepgemm':>9} {'floor':>5} | {'best vs triton':>14} {'vs deepgemm':>11} | {'hybrid vs triton':>16} {'vs deepgemm':>11}")
    columns = {"best vs triton": [], "best vs deepgemm": [], "hybrid vs triton": [], "hybrid vs deepgemm": []}
    for model, tokens, triton, deepgemm in peer_times(arguments.peers):
        mine = ours.get((model, tokens), {})
        layouts = [(mine[name], name) for name in LAYOUTS if name in mine]
        if not layouts and "hybrid" not in mine:
            continue
        best, layout = min(layouts) if layouts else (mine["hybrid"], "hybrid")
        hybrid = mine.get("hybrid")
        ratios = [ratio(triton, best), ratio(deepgemm, best), ratio(triton, hybrid), ratio(deepgemm, hybrid)]
        for values, value in zip(columns.values(), ratios):
            values.append(value)
        text = [f"{r:.2f}" if r else "-" for r in ratios]
        print(f"{model:20} {tokens:6} | {cell(best)} {layout:10} | {cell(hybrid)} | {cell(triton)} | {cell(deepgemm)} "
              f"| {text[0]:>14} {text[1]:>11} | {text[2]:>16} {text[3]:>11}")
    for name, values in columns.items():
        known = [v for v in values if v]
        if known:
            print(f"{name:18}: geometric mean {mean(known):.2f}, least {min(known):.2f}, {sum(v >= 1 for v in known)} of {len(known)} at least as fast")


if __name__ == "__main__":
    sys.exit(main())
