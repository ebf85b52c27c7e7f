#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Our layer beside measured opponents, shape by shape.

    scripts/compare_peers.py bench/results/h100.json bench/results/h100_peers.tsv

Lines of the file of peers that begin with # say how it was measured. Its columns: model, tokens, active_experts, floor_us, and the layers of
PEERS ("-" where there is none). Each time is divided by the floor of its own run, so that other random routing and another card cancel out;
a ratio above 1 says that ours is faster.
"""
import argparse
import csv
import json
import math
import pathlib
import sys

LAYOUTS = ("contiguous", "masked")
PEERS = {"Triton": ("triton_layer_us",), "DeepGEMM": ("deepgemm_contiguous_layer_us", "deepgemm_masked_layer_us"),
         "quack": ("quack_layer_us", "quack_permuted_layer_us")}


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
    """(model, tokens, peer -> (us, times the floor) of its best form) of each line."""
    with open(path, newline="") as file:
        for row in csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"):
            floor = float(row["floor_us"])
            us = {peer: [float(v) for name in names if (v := row.get(name) or "-") != "-"] for peer, names in PEERS.items()}
            yield row["model"], int(row["tokens"]), {peer: (min(times), min(times) / floor) for peer, times in us.items() if times}


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

    lines = [(model, tokens, peers, ours[model, tokens]) for model, tokens, peers in peer_times(arguments.peers) if (model, tokens) in ours]
    names = [peer for peer in PEERS if any(peer in peers for _, _, peers, _ in lines)]
    print(f"{'model':20} {'tokens':>6} | {'ours us':>9} {'floor':>5} {'executor':10} | "
          + " | ".join(f"{peer:>9} {'floor':>5} {'ratio':>5}" for peer in names))
    columns = {peer: [] for peer in [*names, "the best of them"]}
    for model, tokens, peers, mine in lines:
        best, layout = min((time, name) for name, time in mine.items())
        ratios = {peer: ratio(peers.get(peer), best) for peer in names}
        ratios["the best of them"] = min((r for r in ratios.values() if r), default=None)
        for peer, value in ratios.items():
            columns[peer].append(value)
        print(f"{model:20} {tokens:6} | {cell(best)} {layout:10} | "
              + " | ".join(f"{cell(peers.get(peer))} {f'{ratios[peer]:5.2f}' if ratios[peer] else '    -'}" for peer in names))
    for name, values in columns.items():
        known = [v for v in values if v]
        if known:
            print(f"{name:16}: geometric mean {mean(known):.2f}, least {min(known):.2f}, {sum(v >= 1 for v in known)} of {len(known)} at least as fast")


if __name__ == "__main__":
    sys.exit(main())
