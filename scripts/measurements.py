#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/measurements, a page for each file of bench/results, and the tables between markers in README.md.

    scripts/measurements.py            writes every page that is stale
    scripts/measurements.py --check    writes nothing, names every stale page, and ends with 1 if there is one

A page holds every row of its file. README.md asks for a few of them:

    <!-- measurements: h100 layers qwen3-30b-a3b,mixtral-8x7b 1,128,8192 -->
    <!-- end of measurements -->

with the name of the results file, a view (one of VIEWS), models and tokens.
"""
import argparse
import json
import pathlib
import re
import sys
import textwrap

import compare_peers
import gpu_results

RESULTS, PAGES = "bench/results", "docs/measurements"
MARKED = re.compile(r"(<!-- measurements: (\S+) (\S+) (\S+) (\S+) -->\n).*?(<!-- end of measurements -->)", re.S)
PARTS = ("dispatch", "experts", "combine", "layer_given_routing")
LAYERS = ("layer_given_routing", "layer")
HEAD = ("gpu", "device", "driver", "date", "commit", "command", "about", "note", "machine", "isa", "check", "versions", "missing")


def number(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) < 0.01 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def text(value):
    if value is None or value == "":
        return ""
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    words = str(value).replace("\n", " ")
    return f"`{words}`" if "*" in words and "`" not in words else words


def prose(words):
    return ["", *textwrap.wrap(words, 118, break_long_words=False, break_on_hyphens=False)]


def table(rows):
    """Rows, dictionaries, as an aligned table; a column is there if any row has it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if any(row.get(name) not in (None, "", []) for row in rows)]
    if not names:
        return []
    right = {name: all(row.get(name) is None or isinstance(row[name], (int, float)) for row in rows if name in row) for name in names}
    cells = [[text(row.get(name)).replace("|", "\\|") for name in names] for row in rows]
    widths = [max(len(name), 3, *(len(row[i]) for row in cells)) for i, name in enumerate(names)]

    def line(values):
        return "| " + " | ".join(v.rjust(w) if right[n] else v.ljust(w) for v, w, n in zip(values, widths, names)) + " |"
    dashes = ["-" * (w - 1) + ":" if right[n] else "-" * w for w, n in zip(widths, names)]
    return ["", line(names), "| " + " | ".join(dashes) + " |", *map(line, cells)]


def ratio(us, floor):
    return us / floor if us and floor else None


def rate_table(runs):
    """What the same process measured of the machine, run by run."""
    return table([{"run": name, "layer": run.get("layer"), "routing": run.get("routing"), "cuBLAS TFLOP/s": run.get("gemm_tflops"),
                   "reads GB/s": run.get("read_gbps"), "copies GB/s": run.get("copy_gbps"), "SM clock MHz": run.get("sm_clock_mhz"),
                   "runs": run.get("runs", 1), "replays": run.get("repeat"), "date": run.get("date", "")[:10], "commit": run.get("commit")}
                  for name, run in runs.items()])


def errors_of(run):
    return {(c["strategy"], c["tokens"]): c["rel_error"] for c in run.get("checks", []) if "rel_error" in c}


def faults(runs):
    """Runs that ended early and results that were wrong: they have no time."""
    found = [{"run": name, "fault": run["error"]} for name, run in runs.items() if "error" in run]
    found += [{"run": name, "tokens": c["tokens"], "strategy": c["strategy"], "fault": c["problem"]}
              for name, run in runs.items() for c in run.get("checks", []) if c["failed"]]
    return table(found) if found else []


def layer_rows(name, run, peers=None):
    errors = errors_of(run)
    for row in run["rows"]:
        if row["op"] not in LAYERS:
            continue
        of_floor = ratio(row["us"], row["floor_us"])
        cells = {"run": name, "tokens": row["tokens"], "strategy": row["strategy"], "layout": row.get("layout"), "active experts": row.get("active_experts"),
                 "gate": "given" if row["op"] == LAYERS[0] else "run", "us": row["us"], "least": row.get("us_min"), "most": row.get("us_max"),
                 "each run": [round(us, 1) for us in row.get("us_of_runs", [])], "floor us": row["floor_us"], "of floor": of_floor,
                 "error": errors.get((row["strategy"], row["tokens"]))}
        if row["op"] == LAYERS[0]:
            for peer, time in (peers or {}).get((name, row["tokens"]), {}).items():
                cells |= {f"{peer} us": time[0], f"{peer} of its floor": time[1], f"{peer} over ours": time[1] / of_floor}
        yield cells


def operation_rows(name, run):
    """One row for each batch and layout, one column for each operation alone."""
    rows = {}
    for row in run["rows"]:
        if row["op"] not in LAYERS:
            cells = rows.setdefault((row["strategy"], row.get("layout"), row["tokens"]),
                                    {"run": name, "tokens": row["tokens"], "strategy": row["strategy"], "layout": row.get("layout")})
            cells[row["op"]] = row["us"]
    return list(rows.values())


def floor_rows(name, run, peers):
    """Both GEMMs beside the sum of their floors, and beside an opponent's."""
    for cells in operation_rows(name, run):
        gemms = [r for r in run["rows"] if r["op"].startswith("grouped_gemm") and r["tokens"] == cells["tokens"] and r["strategy"] == cells["strategy"]
                 and r.get("layout") == cells["layout"]]
        us, floor = sum(r["us"] for r in gemms), sum(r["floor_us"] for r in gemms)
        yield {"run": name, "tokens": cells["tokens"], "strategy": cells["strategy"], "layout": cells["layout"], "GEMM1 + GEMM2 us": us, "floors us": floor,
               "of floors": ratio(us, floor), "DeepGEMM GEMMs us": peers.get((name, cells["tokens"])),
               "of DeepGEMM": ratio(us, peers.get((name, cells["tokens"])))}


def rank_rows(run):
    """One row for each batch and strategy: parts of the layer, and what the driver's copy or the machine allows."""
    rows = {}
    for row in run["rows"]:
        cells = rows.setdefault((row["tokens"], row["strategy"], row.get("eager")), {"tokens": row["tokens"], "strategy": row["strategy"]})
        if row.get("eager"):
            cells["eager"] = True
        name = "layer" if row["op"] in LAYERS else row["op"]
        cells[f"{name} us"] = row["us"]
        if row.get("floor_us") and row["op"] != "experts":
            cells[f"{name} of floor"] = ratio(row["us"], row["floor_us"])
        if "us_min" in row and row["op"] in LAYERS:
            cells |= {"layer least": row["us_min"], "layer most": row["us_max"]}
        if row["op"] in LAYERS and row.get("us_of_runs"):
            cells["layer, each run"] = [round(us, 1) for us in row["us_of_runs"]]
    return list(rows.values())


def gemm_rows(run):
    for row in run["rows"]:
        yield {"rows per expert": row["rows"], "experts": row["experts"], "N x K": f"{row['n']} x {row['k']}", "us": row["us"], "floor us": row["floor_us"],
               "GFLOP/s": row["gflops"], "sgemm us": row.get("sgemm_us"), "of sgemm %": 100 * row["sgemm_us"] / row["us"] if row.get("sgemm_us") else None,
               "GB/s": row["gbps"], "of reads %": 100 * row["gbps"] / run["read_gbps"]}


def write_tests(section, level):
    yield from table([{name: section[name] for name in ("passed", "failed", "skipped", "check") if name in section}])
    yield f"\nTests: `{section['filter']}`." if "filter" in section else ""
    if section.get("about"):
        yield from prose(section["about"] + ".")
    if section.get("failures"):
        yield from ["\nFailed:\n", *(f"- `{name}`" for name in section["failures"])]


def write_sanitize(section, level):
    yield from table([{"tool": tool, "verdict": v["verdict"], "summary": v["summary"], "tests": v["tests"], "seconds": v["seconds"]}
                      for tool, v in section.items()])


def write_bench(section, level, peers=None, gemms=None):
    """Layers, skew and operations of one GPU."""
    runs = {name: run for name, run in section.items() if "rows" in run and run["rows"]}
    skewed = {name: run for name, run in runs.items() if run.get("routing") in ("balanced", "zipf", "hot")}
    plain = {name: run for name, run in runs.items() if name not in skewed}
    yield from rate_table(runs)
    yield from faults(section)
    yield f"\n{level} Layers"
    yield from table([row for name, run in plain.items() for row in layer_rows(name, run, peers)])
    if skewed:
        yield f"\n{level} Skew"
        yield from table([row for name, run in skewed.items() for row in layer_rows(name, run)])
    yield f"\n{level} GEMMs beside their floors"
    yield from table([row for name, run in plain.items() for row in floor_rows(name, run, gemms or {})])
    yield f"\n{level} Operations, each alone in a graph, us"
    yield from table([row for name, run in runs.items() for row in operation_rows(name, run)])


def of_peers(section):
    """Whether rows are of switchyard.bench: ours and peers' in one process."""
    return any("peer" in row for run in section.values() for row in run.get("rows", []))


def peer_rows(name, run):
    """One row for each batch and gate, one column for each peer; the best peer's time over ours."""
    rows = {}
    for row in run["rows"]:
        gate = "given" if row["op"] == LAYERS[0] else "run"
        cells = rows.setdefault((row["op"], row["tokens"]), {"run": name, "tokens": row["tokens"], "gate": gate,
                                                             "active experts": row["active_experts"], "floor us": row["floor_us"]})
        cells[f"{row['peer']} us"] = row["us"]
    for (op, tokens), cells in rows.items():
        of = {row["peer"]: row["us"] for row in run["rows"] if (row["op"], row["tokens"]) == (op, tokens)}
        ours, others = of.get("switchyard"), {peer: us for peer, us in of.items() if not peer.startswith("switchyard")}
        if ours and others:
            best = min(others, key=others.get)
            cells |= {"best peer": best, "best peer over ours": others[best] / ours}
        yield cells


def write_peer_bench(section, level):
    yield from prose("Routing given, or chosen by a gate that runs. Peers that bring no gate get torch's; of vllm-kernel and quack-kernel the sort of the "
                     "rows is outside of the time. Above 1 in the last column ours is faster. An empty cell was not timed.")
    yield from rate_table(section)
    yield from [f"\n{level} Layers", *table([row for name, run in section.items() for row in peer_rows(name, run)])]
    reasons = {}
    for name, run in section.items():
        for row in run["not_timed"]:
            reasons.setdefault((row["peer"], row["reason"]), []).append(name)
    yield from table([{"not timed": peer, "why": reason, "runs": list(dict.fromkeys(names))} for (peer, reason), names in reasons.items()])


def write_linear_attention(section, level):
    yield f"\nCopies {section['gbps']:.0f} GB/s; the smallest step takes {section['smallest_us']:.1f} us."
    yield from table([{"operation": r["op"], "batch": r["batch"], "tokens": r["tokens"], "us": r["us"], "least": r["us_min"], "most": r["us_max"],
                       "bytes": int(r["bytes"]), "floor us": r["floor_us"], "of floor": ratio(r["us"], r["floor_us"])} for r in section["rows"]])


def write_ranks(section, level):
    """Layers over several GPUs, one with the same local work, and NCCL's collectives."""
    runs = {name: run for name, run in section.items() if name != "nccl" and isinstance(run, dict)}
    yield from rate_table(runs)
    yield from faults(runs)
    for name, run in runs.items():
        yield f"\n{level} {name}"
        if name.endswith("-alone"):
            yield from [*table(list(layer_rows(name, run))), *table(operation_rows(name, run))]
        else:
            yield from table(rank_rows(run))
        yield from table([{"refused": r["strategy"], "tokens": r["tokens"], "why": r["problem"]} for r in run.get("refusals", []) if not r["failed"]][:1])
    if "nccl" in section:
        nccl = section["nccl"]
        yield f"\n{level} NCCL {nccl['nccl']} beside it"
        yield f"\n`scripts/bench_nccl.py`, PyTorch {nccl['torch']}, {nccl['ranks']} ranks."
        yield from table([{"collective": r["op"], "rows": r["rows"], "hidden": r["hidden"], "us": r["us"], "least": r["us_min"], "most": r["us_max"],
                           "bytes": r["bytes"], "GB/s": r["bytes"] / r["us"] / 1e3} for r in nccl["rows"]])


def tune_rows(name, run):
    """One row for each GEMM and number of rows, one column for each configuration: its median, or a first look that was enough."""
    for gemm in run.get("gemms", []):
        of = {time["config"]: time["us"] or time["first_us"] for time in gemm["times"] if not time["problem"]}
        yield {"run": name, "tokens": gemm["tokens"], "GEMM": gemm["gemm"], "experts": gemm["experts"], "N x K": f"{gemm['n']} x {gemm['k']}",
               "rows": gemm["rows"], "by rule": gemm["by_rule"], "best": gemm["best"], "gain": gemm["gain"], "in the table": gemm["in_table"], **of}


def write_tune(section, level):
    yield from prose("Each configuration of the experts' grouped GEMMs, in us, GEMM1 with the scatter that it needs. Gain: the time of the rule's "
                     "configuration over the best one's.")
    yield from table([{"run": name, "layer": run.get("layer"), "routing": run.get("routing"), "rounds": run.get("rounds"), "replays": run.get("repeat"),
                       "date": run.get("date", "")[:10], "commit": run.get("commit")} for name, run in section.items()])
    faults = [{"run": name, "fault": fault} for name, run in section.items() for fault in [*run.get("problems", []), run.get("error")] if fault]
    yield from table(faults) if faults else []
    for name, run in section.items():
        yield from [f"\n{level} {name}", *table(list(tune_rows(name, run)))] if run.get("gemms") else []


def write_grouped_gemm(run, level):
    rates = f"{run['threads']} threads; reads {run['read_gbps']:.1f} GB/s, multiply-adds {run['fma_gflops']:.0f} GFLOP/s of fp32"
    form = f"Instructions `{run['target']}`, OpenBLAS kernels `{run['blas']}`, " if "target" in run else ""
    yield f"\n{form}{rates}."
    yield from table(list(gemm_rows(run)))


def write_layer(run, level):
    yield f"\n{run['layer']}, {run['strategy']}, {run['threads']} threads; reads {run['read_gbps']:.1f} GB/s."
    yield from table([{"tokens": r["tokens"], "operation": r["op"], "us": r["us"], "floor us": r["floor_us"], "of floor": ratio(r["us"], r["floor_us"])}
                      for r in run["rows"]])


def bench_command(run):
    preset = run["layer"].split(",")[0].removeprefix("preset ")
    tokens = ",".join(str(t) for t in dict.fromkeys(row["tokens"] for row in run["rows"]))
    options = [("--num-sms", run.get("num_sms")), ("--link-blocks", run.get("link_blocks")), ("--pieces", run.get("pieces"))]
    return " ".join(["switchyard bench --device cuda --preset", preset, f"--ranks {run['ranks']} --tokens {tokens}",
                     *(f"{name} {value}" for name, value in options if value and (name, value) != ("--pieces", 1))])


def write_other(section, level):
    """Whatever has no form of its own: scalars as a list, rows as tables."""
    if isinstance(section, list):
        if all(isinstance(entry, dict) and "rows" in entry for entry in section):
            for entry in section:
                yield f"\n`{entry.get('command') or bench_command(entry)}`"
                about = [f"{name} {entry[name]}" for name in ("groups", "commit", "date") if name in entry]
                yield f"\n{', '.join(about)}." if about else ""
                yield from table(rank_rows(entry))
        else:
            yield from table([flat(entry) for entry in section])
        return
    if section.get("about"):
        yield from prose(section["about"] + ".")
    scalars = {name: value for name, value in section.items() if not isinstance(value, (dict, list)) and name not in HEAD}
    yield from table([flat(scalars)] if scalars else [])
    for name, value in section.items():
        if isinstance(value, (dict, list)) and value:
            if name != "rows":
                yield f"\n{level} {name.replace('_', ' ')}"
            yield from write_other(value, level + "#")


def flat(row):
    cells = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells |= {f"{inner}, {name}": inner_value for inner, inner_value in value.items()}
        else:
            cells[name.replace("_", " ")] = value
    return cells


WRITERS = {"tests": ("Tests", write_tests), "peers": ("Tests of several ranks", write_tests), "sanitize": ("compute-sanitizer", write_sanitize),
           "bench": ("One GPU", write_bench), "linear_attention": ("Linear attention", write_linear_attention),
           "ranks": ("Several GPUs", write_ranks), "tune": ("Configurations of grouped GEMMs", write_tune), "grouped_gemm": ("Grouped GEMM", write_grouped_gemm), "layer": ("A layer", write_layer)}


def title_of(key, results):
    if key == "runs":
        return "Grouped GEMM by instruction set" if "target" in results[key][0] else "Layers over several GPUs"
    return WRITERS[key][0] if key in WRITERS else key.replace("_", " ").capitalize()


def command(name, results):
    """The file's own, else what scripts/gpu_check.sh was asked for: a step for each section."""
    if "command" in results:
        return f"`{results['command']}`"
    steps = [step for step in gpu_results.STEPS if step in results]
    if not steps:
        return "beside each table"
    runs = [run for run in results.get("ranks", {}).values() if isinstance(run, dict) and "rows" in run and "repeat" in run]
    ranks, times = {run["ranks"] for run in runs if "ranks" in run}, {run.get("runs", 1) for run in runs}
    words = [f"RANKS={max(ranks)}" if ranks - {2} else "", f"RUNS={max(times)}" if times - {3} else "", "scripts/gpu_check.sh", *steps]
    return f"`{' '.join(word for word in words if word)} {RESULTS}/{name}.json`"


def machine(results):
    return results.get("gpu") or results.get("device") or results.get("machine", "")


def peers_of(root, name):
    path = root / RESULTS / f"{name}_peers.tsv"
    return {(model, tokens): peers for model, tokens, peers in compare_peers.peer_times(path)} if path.exists() else {}


def peer_gemms(root, name):
    """(model, tokens) -> the two GEMMs of DeepGEMM in us, the better layout."""
    path = root / RESULTS / f"{name}_peers.tsv"
    best = {}
    for row in table_rows(path) if path.exists() else []:
        sums = [sum(float(row[f"deepgemm_{layout}_gemm{i}_us"]) for i in (1, 2)) for layout in compare_peers.LAYOUTS
                if row[f"deepgemm_{layout}_gemm1_us"] != "-"]
        best[row["model"], int(row["tokens"])] = min(sums, default=None)
    return best


def table_rows(path):
    names, *rows = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return [dict(zip(names, row)) for row in rows]


def head_of_table(path):
    """What the lines with # before a table say."""
    lines = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    return dict(line.split(": ", 1) for line in lines)


GENERATED = "<!-- Written by scripts/measurements.py from {}. Not edited by hand. -->"


def page_head(source, name, results, how):
    rows = [{"": "machine", " ": machine(results)}, {"": "driver", " ": results.get("driver")}, {"": "date", " ": results["date"][:10]},
            {"": "commit", " ": results.get("commit")}, {"": "command", " ": how}, {"": "checked before", " ": results.get("check")},
            {"": "instructions", " ": results.get("isa")},
            {"": "versions", " ": ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items() if version)}]
    lines = [f"# {name}", "", GENERATED.format(source), "", f"Results file: [{source}](../../{source}). Times are medians in us."]
    lines += table([row for row in rows if row[" "]])
    for note in ("about", "note"):
        if results.get(note):
            lines += prose(results[note].rstrip(".") + ".")
    return lines


def results_page(root, path):
    results, name = json.loads(path.read_text()), path.stem
    peers = peers_of(root, name)
    lines = page_head(f"{RESULTS}/{path.name}", name, results, command(name, results))
    if peers:
        lines += prose(f"Opponents: [{name}_peers.md]({name}_peers.md), of a run of their own. \"Over ours\" is their time over their floor, divided "
                       "by our time over our floor: another routing and another card cancel out. Below 1 they are faster.")
    for key, section in results.items():
        if key in HEAD:
            continue
        write = WRITERS.get(key, (None, write_other))[1]
        if key == "runs" and all("target" in run for run in section):
            for run in section:
                lines += [f"\n## {run['target']}, {run['threads']} threads", *write_grouped_gemm(run, "###")]
            continue
        lines.append(f"\n## {title_of(key, results)}")
        if isinstance(section, dict) and section.get("commit") not in (None, results.get("commit")):
            lines.append(f"\nCommit {section['commit']}.")
        section = {k: v for k, v in section.items() if k != "commit"} if isinstance(section, dict) else section
        if key == "bench" and of_peers(section):
            lines += write_peer_bench(section, "###")
        else:
            lines += write_bench(section, "###", peers, peer_gemms(root, name)) if key == "bench" else write(section, "###")
    return "\n".join(line for line in lines if line is not None)


def table_page(path):
    head = head_of_table(path)
    lines = page_head(f"{RESULTS}/{path.name}", path.stem, {**head, "commit": None}, head["command"])

    def value(cell):
        return None if cell == "-" else float(cell) if re.fullmatch(r"\d+\.\d+", cell) else int(cell) if cell.isdigit() else cell
    return "\n".join(lines + table([{name.replace("_", " "): value(cell) for name, cell in row.items()} for row in table_rows(path)]))


def index_page(root, files):
    lines = ["# Measurements", "", GENERATED.format(RESULTS), "",
             "A page holds all rows of one results file, losses included, and beside a time the limit that the same run measured."]
    rows = []
    for path in files:
        if path.suffix == ".json":
            results = json.loads(path.read_text())
            parts = [title_of(key, results) for key in results if key not in HEAD]
        else:
            results, parts = head_of_table(path), ["Layers of peers"]
        rows.append({"page": f"[{path.stem}]({path.stem}.md)", "machine": machine(results), "date": results["date"][:10], "commit": results.get("commit"),
                     "holds": "; ".join(parts)})
    return "\n".join(lines + table(rows))


def layers_view(root, name, results, models, tokens):
    rows = []
    for row in (r for model in models for r in layer_rows(model, results["bench"][model], peers_of(root, name))):
        if row["gate"] == "given" and row["tokens"] in tokens:
            rows.append({"model": row["run"], **{k: row[k] for k in ("tokens", "us", "floor us", "of floor")}})
    return table(rows)


def ranks_view(root, name, results, models, tokens):
    """Rows pushed to other GPUs and back, beside NCCL's collectives of as many."""
    rows = []
    for model in models:
        run = results["ranks"][model]
        nccl = {(r["op"], r["rows"]): r["us"] for r in results["ranks"]["nccl"]["rows"] if r["hidden"] == run["config"]["hidden"]}
        of = {(r["op"], r["tokens"]): r["us"] for r in run["rows"] if r["strategy"] == "normal+contiguous"}
        rows += [{"model": model, "tokens of a rank": t, "dispatch us": of["dispatch", t], "combine us": of["combine", t],
                  "NCCL all-gather us": nccl.get(("all_gather", t)), "NCCL reduce-scatter us": nccl.get(("reduce_scatter", t))} for t in tokens]
    return table(rows)


def shared_view(root, name, results, models, tokens):
    """Layers over all GPUs beside one GPU with the same local work."""
    rows = []
    for model in models:
        run, alone = ({r["tokens"]: r["us"] for r in results["ranks"][n]["rows"] if r["op"] == LAYERS[0] and "contiguous" in r["strategy"] and of in r["strategy"]}
                      for n, of in ((model, "rows fetched"), (model + "-alone", "")))
        rows += [{"model": model, "tokens of a rank": t, "all GPUs us": run[t], "one GPU us": alone[t], "one of all %": 100 * alone[t] / run[t]} for t in tokens]
    return table(rows)


def peers_view(root, name, results, models, tokens):
    """Routing given: ours beside each peer."""
    rows = []
    for row in (r for model in models for r in peer_rows(model, results["bench"][model])):
        if row["gate"] == "given" and row["tokens"] in tokens:
            rows.append({"model": row["run"], **{k: v for k, v in row.items() if k not in ("run", "gate", "active experts", "best peer")}})
    return table(rows)


VIEWS = {"layers": layers_view, "ranks": ranks_view, "shared": shared_view, "peers": peers_view}


def filled(root, page):
    def fill(match):
        begin, name, view, models, tokens, end = match.groups()
        results = json.loads((root / RESULTS / f"{name}.json").read_text())
        lines = VIEWS[view](root, name, results, models.split(","), [int(t) for t in tokens.split(",")])
        return begin + "\n".join(lines[1:]) + "\n" + end
    return MARKED.sub(fill, page)


def pages(root):
    """Path -> what it should hold."""
    files = sorted(p for p in (root / RESULTS).glob("*") if p.suffix in (".json", ".tsv"))
    wanted = {root / PAGES / f"{path.stem}.md": (results_page(root, path) if path.suffix == ".json" else table_page(path)) + "\n" for path in files}
    wanted = {path: re.sub(r"\n{3,}", "\n\n", page) for path, page in wanted.items()}
    if files:
        wanted[root / PAGES / "README.md"] = index_page(root, files) + "\n"
    readme = root / "README.md"
    if readme.exists():
        wanted[readme] = filled(root, readme.read_text())
    return wanted


def stale(root):
    """Pages that do not hold what bench/results says, and pages of files that are gone."""
    wanted = pages(root)
    yield from (path for path, page in wanted.items() if not path.exists() or path.read_text() != page)
    yield from (path for path in sorted((root / PAGES).glob("*.md")) if path not in wanted)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a page is stale")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    found, wanted = list(stale(root)), pages(root)
    for path in found:
        if arguments.check:
            print(f"{path.relative_to(root)}: stale, run scripts/measurements.py")
        elif path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
            print(f"{path.relative_to(root)}: written")
        else:
            path.unlink()
            print(f"{path.relative_to(root)}: removed, its results file is gone")
    if not found:
        print(f"measurements: {len(wanted)} pages fresh")
    return 1 if found and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
