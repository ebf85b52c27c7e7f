#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""What NCCL's collectives take between the GPUs of one host: the opponents of dispatch and combine.

    pip install torch
    scripts/bench_nccl.py --rows 128x7168,4096x7168 --json

One process per GPU. bf16, every collective captured into a CUDA graph, medians over the runs of the slowest rank:
all_gather (every rank's rows to every rank), reduce_scatter (back), all_to_all (each rank's rows, shared out evenly).
"""
import argparse
import json
import os
import statistics
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def timed(enqueue, repeat):
    """Microseconds of each replay, the slowest rank's; ranks begin together."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            enqueue()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        enqueue()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush, token = torch.empty(256 << 20, dtype=torch.uint8, device="cuda"), torch.zeros(1, device="cuda")
    us = []
    with torch.cuda.stream(stream):
        for _ in range(repeat + 3):
            flush.zero_()
            dist.all_reduce(token)  # ranks meet on the device, not on the host
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            us.append(begin.elapsed_time(end) * 1e3)
    times = torch.tensor(us[3:], device="cuda")
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return times.tolist()


def collectives(rows, hidden, ranks):
    own = torch.randn(rows, hidden, device="cuda").bfloat16()
    every = torch.randn(ranks * rows, hidden, device="cuda").bfloat16()
    out = torch.empty_like(own)
    remote = (ranks - 1) * rows * hidden * 2
    yield "all_gather", remote, lambda: dist.all_gather_into_tensor(every, own)
    yield "reduce_scatter", remote, lambda: dist.reduce_scatter_tensor(out, every)
    yield "all_to_all", remote // ranks, lambda: dist.all_to_all_single(out, own)


def measure(rank, ranks, shapes, repeat, results):
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=ranks, device_id=torch.device("cuda", rank))
    for rows, hidden in shapes:
        for name, remote, enqueue in collectives(rows, hidden, ranks):
            us = timed(enqueue, repeat)
            if rank == 0:
                results.put({"op": name, "rows": rows, "hidden": hidden, "us": statistics.median(us),
                             "us_min": min(us), "us_max": max(us), "bytes": remote})
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="128x2048,8192x2048,128x7168,4096x7168", help="T x H of each rank, a list")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if torch.cuda.device_count() < args.ranks:
        sys.exit(f"bench_nccl: --ranks={args.ranks}, this machine has {torch.cuda.device_count()} GPUs")
    shapes = [tuple(int(x) for x in shape.split("x")) for shape in args.rows.split(",")]
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29533")
    results = mp.get_context("spawn").Queue()
    mp.spawn(measure, (args.ranks, shapes, args.repeat, results), nprocs=args.ranks)
    rows = [results.get() for _ in range(3 * len(shapes))]
    if args.json:
        print(json.dumps({"device": torch.cuda.get_device_name(), "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                          "torch": torch.__version__, "ranks": args.ranks, "rows": rows}))
        return
    print(f"{'collective':<16}{'rows':>14}{'us':>9}{'GB/s':>7}")
    for r in rows:
        shape = f"{r['rows']}x{r['hidden']}"
        print(f"{r['op']:<16}{shape:>14}{r['us']:>9.1f}{r['bytes'] / r['us'] * 1e-3:>7.0f}")


if __name__ == "__main__":
    main()
