# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Pages and pictures of `switchyard report`, read back: their numbers, what they refuse, what they never hold.

    report_test.py path/to/switchyard path/to/source
"""

import copy
import csv
import html.parser
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
import xml.etree.ElementTree
from pathlib import Path

PROGRAM = Path(sys.argv.pop(1)).resolve()
SOURCE = Path(sys.argv.pop(1)).resolve()
RESULTS = SOURCE / "bench/results"
H100, PEERS = RESULTS / "h100.json", RESULTS / "h100_peers.tsv"
H200, H200_PEERS = RESULTS / "h200.json", RESULTS / "h200_peers.tsv"
MOST_BYTES = 300_000
VOID = {"meta", "br", "hr", "img", "input", "link"}


def switchyard(*arguments, cwd=None):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, timeout=300, check=False, cwd=cwd)


class Page(html.parser.HTMLParser):
    """Elements balance; tables by id; links; the names of elements and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.attributes = [], set(), set()
        self.tables, self.links, self.downloads, self.ids = {}, [], {}, []
        self.cell = self.table = None
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), attrs
        self.elements.add(tag)
        self.attributes |= set(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(attributes["id"], [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.cell = {"text": "", "class": attributes.get("class", "")}
            self.table[-1].append(self.cell)
        elif tag == "data":
            self.cell["value"] = float(attributes["value"])
        elif tag == "a":
            self.links.append(attributes["href"])
            if "download" in attributes:
                self.downloads[attributes["download"]] = attributes["href"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        self.text += data
        if self.cell is not None:
            self.cell["text"] += data

    def rows(self, table):
        """Dictionaries by the names of columns."""
        head, *rows = self.tables[table]
        names = [cell["text"] for cell in head]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def download(self, name):
        kind, _, content = self.downloads[name].partition(",")
        assert kind.startswith("data:"), kind
        return urllib.parse.unquote_to_bytes(content)


def shown(value):
    """As a person reads it."""
    if value == 0:
        return "0"
    if value < 0.01 or value >= 1e7:
        return f"{value:.1e}"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def fastest_layers(run):
    """tokens -> the row of the fastest layer, with routing given where any was measured so."""
    best = {}
    for op in ("layer_given_routing", "layer"):
        of_op = {}
        for row in run["rows"]:
            if row["op"] == op and (row["tokens"] not in of_op or row["us"] < of_op[row["tokens"]]["us"]):
                of_op[row["tokens"]] = row
        best = {**of_op, **best}
    return best


def best_peers():
    """(model, tokens) -> (time over floor, us, name) of the best."""
    lines = [line for line in PEERS.read_text().splitlines() if not line.startswith("#")]
    best = {}
    for row in csv.DictReader(lines, delimiter="\t"):
        times = [(float(us) / float(row["floor_us"]), float(us), name.removesuffix("_layer_us").replace("_", " "))
                 for name, us in row.items() if name.endswith("_layer_us") and us != "-"]
        if times:
            best[row["model"], int(row["tokens"])] = min(times)
    return best


def small_results(**more):
    """A results file with everything that a report looks at."""
    def row(op, tokens, us, floor):
        return {"op": op, "tokens": tokens, "us": us, "us_min": us * 0.9, "us_max": us * 1.1, "floor_us": floor, "bytes": floor * 3e6,
                "flops": floor * 1e8, "strategy": "local+masked", "layout": "masked", "eager": False}
    run = {"layer": "preset olmoe-1b-7b, random weights", "device": "NVIDIA H100", "driver": "580", "date": "2026-11-01T00:00:00Z", "commit": "abc1234",
           "version": "0.1.0", "routing": "random", "repeat": 20, "read_gbps": 3000.0, "copy_gbps": 2800.0, "gemm_tflops": 790.0,
           "sm_clock_mhz": 1900.0,
           "rows": [row("grouped_gemm1", 8, 70.0, 66.0), row("layer_given_routing", 8, 110.0, 100.0), row("layer", 8, 130.0, 100.0),
                    row("layer_given_routing", 64, 210.5, 200.0)],
           "checks": [{"tokens": 8, "strategy": "local+masked", "rel_error": 2.5e-3, "failed": False, "problem": ""}]}
    over_ranks = copy.deepcopy(run) | {"ranks": 2, "devices": 2, "checks": [], "refusals": [
        {"tokens": 8, "strategy": "normal+masked", "problem": "not here", "failed": False}],
        "rows": [row("dispatch", 8, 12.0, 5.0) | {"link_gbps": 100.0}, row("experts", 8, 100.0, 90.0), row("combine", 8, 11.0, 5.0),
                 row("layer_given_routing", 8, 115.0, 90.0)]}
    return {"gpu": "NVIDIA H100", "driver": "580", "date": "2026-11-01", "commit": "abc1234", "bench": {"olmoe-1b-7b": run},
            "ranks": {"commit": "abc1234", "olmoe-1b-7b": over_ranks, "nccl": {"rows": []}},
            "linear_attention": {"device": "NVIDIA H100", "gbps": 2800.0, "rows": [
                {"op": "conv_decode", "batch": 4, "tokens": 1, "us": 4.0, "us_min": 3.9, "us_max": 4.1, "floor_us": 2.0, "bytes": 1e6}]},
            "tests": {"passed": 3}, **more}


class Report(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name)
        self.out = self.folder / "out.html"

    def write(self, results, name="results.json"):
        path = self.folder / name
        if isinstance(results, bytes):
            path.write_bytes(results)
        else:
            path.write_text(results if isinstance(results, str) else json.dumps(results))
        return path

    def page(self, *files):
        done = switchyard("report", *files, "--output", self.out)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        text = self.out.read_bytes()
        self.assertLess(len(text), MOST_BYTES)
        return Page(text.decode())

    def refused(self, *arguments, says, code=2):
        done = switchyard(*arguments)
        error = done.stderr.decode()
        self.assertEqual((done.returncode, done.stdout), (code, b""), error)
        self.assertEqual(error.count("\n"), 1, error)
        self.assertIn(says, error)
        return error

    # ---- numbers

    def test_every_number_of_the_first_table_is_that_of_the_file(self):
        page = self.page(H100, PEERS)
        bench, peers = json.loads(H100.read_text())["bench"], best_peers()
        rows = page.rows("headline") + page.rows("skewed")
        wanted = {(model, tokens): row for model, run in bench.items() for tokens, row in fastest_layers(run).items()}
        self.assertEqual(len(rows), len(wanted))
        compared = 0
        for cells in rows:
            model, tokens = cells["model"]["text"], int(cells["tokens"]["text"])
            row = wanted.pop((model, tokens))
            ratio = row["us"] / row["floor_us"]
            errors = [c["rel_error"] for c in bench[model]["checks"] if (c["tokens"], c["strategy"]) == (tokens, row["strategy"])]
            for name, value, text in (("us", row["us"], shown(row["us"])), ("floor us", row["floor_us"], shown(row["floor_us"])),
                                      ("of floor", ratio, f"{ratio:.2f}"), ("error", max(errors), f"{max(errors):.1e}")):
                self.assertEqual((cells[name]["value"], cells[name]["text"]), (value, text), (model, tokens, name))
            self.assertEqual(cells["strategy"]["text"], row["strategy"])
            if (model, tokens) in peers:
                peer_ratio, peer_us, name = peers[model, tokens]
                self.assertEqual(cells["best peer"]["text"], name)
                self.assertEqual(cells["peer us"]["value"], peer_us)
                self.assertAlmostEqual(cells["of best peer"]["value"], ratio / peer_ratio, places=12)
                self.assertEqual(cells["of best peer"]["text"], f"{ratio / peer_ratio:.2f}")
                is_clear = {"good": row["us_max"] / row["floor_us"] < peer_ratio, "bad": row["us_min"] / row["floor_us"] > peer_ratio}
                if verdict := cells["of best peer"]["class"]:
                    self.assertTrue(is_clear[verdict])
                compared += 1
        self.assertEqual(wanted, {})
        self.assertGreater(compared, 40)

    def test_the_fastest_strategy_and_the_best_peer_of_all_tables_are_shown(self):
        results = small_results()
        rows = results["bench"]["olmoe-1b-7b"]["rows"]
        rows += [rows[1] | {"us": 120.0, "strategy": "slower"}, rows[3] | {"us": 201.0, "strategy": "faster"},
                 rows[3] | {"us": 1.0, "strategy": "eager", "eager": True}]
        head = "model\ttokens\tfloor_us\t"
        tables = [self.write(f"{head}a_layer_us\nolmoe-1b-7b\t8\t100\t150\n", "a.tsv"),
                  self.write(f"{head}b_layer_us\tc_layer_us\nolmoe-1b-7b\t8\t200\t240\t-\n", "b.tsv")]
        eight, sixty_four = [c for c in self.page(self.write(results), *tables).rows("headline") if c["ranks"]["text"] == "\u2013"]
        self.assertEqual((eight["strategy"]["text"], sixty_four["strategy"]["text"]), ("local+masked", "faster"))
        # In 240 us, but 1.2 times its floor.
        self.assertEqual((eight["best peer"]["text"], eight["peer of its floor"]["value"]), ("b", 1.2))
        self.assertEqual(eight["of best peer"]["text"], "0.92")
        self.assertEqual(sixty_four["best peer"]["text"], "\u2013")

    def test_peers_of_another_device_stand_beside_nothing(self):
        results = small_results()
        results["bench"]["olmoe-1b-7b"]["device"] = "NVIDIA H200"
        page = self.page(self.write(results), PEERS)
        self.assertNotIn("best peer", page.rows("headline")[0])
        self.assertIn("another device", page.text)

    def test_parts_of_ranks_and_linear_attention(self):
        page = self.page(self.write(small_results()))
        parts = {cells["part"]["text"]: cells for cells in page.rows("rank-parts")}
        self.assertEqual({name: cells["us"]["value"] for name, cells in parts.items()}, {"dispatch": 12.0, "experts": 100.0, "combine": 11.0})
        self.assertEqual(parts["dispatch"]["link GB/s"]["value"], 100.0)
        self.assertEqual([cells["of floor"]["text"] for cells in page.rows("linear")], ["2.00"])
        self.assertEqual([cells["why"]["text"] for cells in page.rows("problems")], ["not here"])
        self.assertIn("results.json holds more that is not shown here: tests.", page.text)

    def test_every_results_file_with_layers_becomes_a_page(self):
        shown_files = 0
        for path in sorted(RESULTS.glob("*.json")):
            if b'"floor_us"' not in path.read_bytes() or "target" in path.read_text():
                continue
            self.assertIn("runs", self.page(path).tables)
            shown_files += 1
        self.assertGreater(shown_files, 8)

    def test_expert_load(self):
        load = self.write({"layer": "a layer", "expert_counts": [4, 0, 12]}, "load.json")
        page = self.page(load)
        self.assertIn("mean 5.33 (line), most 12, which is 2.25 times the mean", page.text)
        self.assertIn("3 experts, 1 idle", page.text)
        self.page(self.write({"expert_counts": list(range(3000))}, "load.json"))

    def test_bench_writes_the_page_of_its_result(self):
        bench = ["bench", "--preset", "olmoe-1b-7b", "--ep-size", 64, "--tokens", "1,3", "--repeat", 1]
        done = switchyard(*bench, "--json", "--report", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        result, page = json.loads(done.stdout), Page(self.out.read_text())
        layers = [(row["tokens"], row["us"]) for row in result["rows"] if row["op"] == "layer"]
        self.assertEqual([(int(c["tokens"]["text"]), c["us"]["value"]) for c in page.rows("headline")], layers)
        self.assertEqual(json.loads(page.download("bench.json")), result)
        done = switchyard(*bench, "--report", self.out)
        self.assertIn(f"report    {self.out}", done.stdout.decode())
        linear = switchyard("bench", "--linear-attention", "--batch", 1, "--tokens", 1, "--repeat", 1, "--report", self.out)
        self.assertEqual(linear.returncode, 0, linear.stderr)
        self.assertIn("linear", Page(self.out.read_text()).tables)

    # ---- history

    def test_files_of_one_run_become_a_trend_in_the_order_of_their_dates(self):
        old, new = small_results(), small_results()
        new["bench"]["olmoe-1b-7b"] |= {"date": "2026-12-24T00:00:00Z", "commit": "def5678"}
        new["bench"]["olmoe-1b-7b"]["rows"][1]["us"] = 105.0
        files = self.write(new, "new.json"), self.write(old, "old.json")
        page = self.page(*files)
        self.assertIn("trend", page.ids)
        self.assertLess(page.text.index("2026-11-01", page.text.index("Runs that several files have")), page.text.rindex("2026-12-24"))
        svg = self.pictures(*files)["trend-olmoe-1b-7b"]
        tips = [title.text for title in svg.iter("{http://www.w3.org/2000/svg}title")]
        self.assertIn("8 tokens, 2026-11-01 abc1234: 110 us, 1.10 of the floor", [tip.replace("2026-11-0\u2026", "2026-11-01") for tip in tips])
        self.assertIn("8 tokens, 2026-12-24 def5678: 105 us, 1.05 of the floor", [tip.replace("2026-12-2\u2026", "2026-12-24") for tip in tips])
        first = next(line for line in svg.iter("{http://www.w3.org/2000/svg}polyline")).get("points").split()
        (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in first)
        self.assertLess(x0, x1)
        self.assertLess(y0, y1)  # it became faster, and y goes down
        # The table shows the newest one alone.
        self.assertEqual([c["us"]["value"] for c in page.rows("headline") if c["tokens"]["text"] == "8"], [105.0, 115.0])
        self.assertNotIn("trend", self.page(files[0]).ids)

    # ---- form

    def pictures(self, *files):
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        done = switchyard("report", *files, "--svg-dir", folder)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        return {path.stem: xml.etree.ElementTree.parse(path).getroot() for path in sorted(folder.glob("*.svg"))}

    def test_a_page_fetches_nothing_and_runs_nothing(self):
        for files in ((H100, PEERS), (RESULTS / "h200x2.json", RESULTS / "h200x2_own_sums.json"), (RESULTS / "cpu.json",)):
            page = self.page(*files)
            text = self.out.read_text()
            without_data = re.sub(r"href='data:[^']*'", "", text)
            for word in ("http:", "https:", "//", "src=", "url(", "@import", "<script", "<link", "<iframe", "javascript"):
                self.assertNotIn(word, without_data)
            self.assertTrue(all(link.startswith(("#", "data:")) for link in page.links))
            self.assertFalse([name for name in page.attributes if name.startswith("on")])
            self.assertIn("default-src 'none'", text)
            self.assertEqual(len(page.ids), len(set(page.ids)))
            self.assertTrue({link[1:] for link in page.links if link.startswith("#")} <= set(page.ids))

    def test_pictures_are_xml_and_need_nothing(self):
        pictures = self.pictures(H100, PEERS)
        self.assertEqual({name.split("-")[0] for name in pictures}, {"ratio", "roofline", "operations"})
        for name, root in (pictures | self.pictures(self.write(small_results()))).items():
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg", name)
            text = (self.folder / "pictures" / f"{name}.svg").read_text()
            self.assertEqual(len(re.findall("http", text)), 1, name)  # its namespace
            self.assertIn("prefers-color-scheme:dark", text)
            numbers = [float(n) for e in root.iter() for a in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy") if (n := e.get(a))]
            self.assertTrue(all(-1 <= n <= 700 for n in numbers), name)

    def test_rows_of_peers_are_compared_and_never_taken_for_ours(self):
        """As `python -m switchyard.bench --peers --json` writes them."""
        def row(peer, op, tokens, us):
            return {"op": op, "peer": peer, "tokens": tokens, "us": us, "us_min": us, "us_max": us, "floor_us": 100.0, "bytes": 1e8, "flops": 1e9,
                    "error": 3e-3}
        rows = [row("switchyard", "layer_given_routing", 8, 150.0), row("switchyard-op", "layer_given_routing", 8, 160.0),
                row("torch", "layer_given_routing", 8, 300.0), row("quack", "layer_given_routing", 8, 120.0), row("torch", "layer", 8, 110.0)]
        run = {"layer": "preset olmoe-1b-7b, random weights", "device": "NVIDIA H200", "rows": rows, "not_timed": []}
        page = self.page(self.write({"gpu": "NVIDIA H200", "bench": {"olmoe-1b-7b": run}}))
        [line] = page.rows("headline")
        self.assertEqual([line[c]["text"] for c in ("us", "of floor", "of best peer", "best peer", "peer us", "error", "strategy")],
                         ["150", "1.50", "1.25", "quack", "120", "3.0e-03", "switchyard"])
        only = {"gpu": "NVIDIA H200", "bench": {"m": run | {"rows": rows[2:]}}}
        self.refused("report", self.write(only), says="none is ours")

    def test_pictures_of_the_docs_are_fresh(self):
        self.pictures(H200, H200_PEERS)
        pictures = sorted((SOURCE / "docs/images").glob("*.svg"))
        self.assertGreater(len(pictures), 0)
        for path in pictures:
            self.assertEqual(path.read_text(), (self.folder / "pictures" / path.name).read_text(),
                             f"{path.name} is stale: switchyard report bench/results/h200.json bench/results/h200_peers.tsv --svg-dir DIR")

    def test_data_is_the_file_or_what_is_shown_of_it(self):
        page = self.page(self.write(small_results(about="#1 50 % 'of' \"it\" & <more> \u00e9\n")))
        self.assertEqual(json.loads(page.download("results.json")), json.loads((self.folder / "results.json").read_text()))
        page = self.page(H100, PEERS)
        self.assertEqual(page.download("h100_peers.tsv"), PEERS.read_bytes())
        first = page.rows("headline")
        again = self.page(self.write(page.download("shown-h100.json")), PEERS)
        self.assertEqual(again.rows("headline"), first)
        results = small_results(tests={"log": "x" * MOST_BYTES})
        page = self.page(self.write(results))
        again = self.page(self.write(page.download("shown-results.json"), "again.json"))
        for table in ("headline", "rank-parts", "linear"):
            self.assertEqual(again.rows(table), page.rows(table))
        # Nothing of it fits, or a scalar stands where a section would.
        self.assertEqual(self.page(self.write(results | {"command": "x" * MOST_BYTES})).downloads, {})
        self.page(self.write({"bench": 3, "linear_attention": "x", "tests": results["tests"], "layer": results["bench"]["olmoe-1b-7b"]}))

    def test_stdout_has_the_page_where_no_file_is_named(self):
        self.page(H100)
        done = switchyard("report", H100)
        self.assertEqual((done.returncode, done.stdout), (0, self.out.read_bytes()))

    # ---- hostile input

    HOSTILE = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>--></style>]]>&lt;{{}}%s\u202e\x00\x1b[31m\u00e9\U0001f600"

    def test_strings_of_files_are_text_and_never_markup(self):
        def poisoned(value):
            if isinstance(value, dict):
                return {key: poisoned(inner) for key, inner in value.items()}
            if isinstance(value, list):
                return [poisoned(inner) for inner in value]
            return self.HOSTILE if isinstance(value, str) and value not in keep else value
        keep = {"layer", "layer_given_routing", "random"}
        results = poisoned(small_results())
        results["bench"] = {self.HOSTILE: results["bench"]["olmoe-1b-7b"]}
        results["ranks"] = {self.HOSTILE: results["ranks"]["olmoe-1b-7b"]}
        results[self.HOSTILE] = {}
        table = self.write(f"# gpu: {self.HOSTILE}\nmodel\ttokens\tfloor_us\t<b>x</b>_layer_us\n".replace("\x00", "") + "olmoe-1b-7b\t8\t1\t1\n", "p.tsv")
        path = self.write(results, "<i>'\"&name.json")
        page = self.page(path, table)
        elements = set("html head meta title style body header h1 h2 h3 p nav a main section div table thead tbody tr th td data em svg "
                       "text line rect circle polygon polyline figure footer ul li details summary".split())
        self.assertEqual(page.elements - elements, set())
        self.assertFalse([name for name in page.attributes if name.startswith("on") or name == "src"])
        readable = "".join("\ufffd" if c in "\u202e\x00\x1b" else c for c in self.HOSTILE)
        self.assertEqual(page.rows("headline")[0]["model"]["text"][:30], readable[:30])
        self.assertEqual(page.rows("problems")[0]["why"]["text"], readable)
        self.assertFalse(set(self.out.read_text()) & set("\u202e\x00\x1b"))
        self.assertEqual(json.loads(page.download(path.name)), json.loads(path.read_text()))
        self.pictures(path, table)  # XML

    def test_input_that_is_no_results_file_is_refused_and_nothing_is_written(self):
        def changed(**values):
            results = small_results()
            results["bench"]["olmoe-1b-7b"]["rows"][1].update(values)
            return results

        def without(key):
            results = small_results()
            del results["bench"]["olmoe-1b-7b"]["rows"][1][key]
            return results
        at = "bench.olmoe-1b-7b.rows[1]."
        cases = [(without("op"), at + "op is missing"), (without("us"), at + "us is missing"), (without("tokens"), at + "tokens is missing"),
                 (changed(us=-1), at + "us=-1, need a number from 0 to 1e+12"), (changed(us=1e300), at + "us=1e+300"),
                 (changed(us="12"), at + 'us="12"'), (changed(us=True), at + "us=true"), (changed(floor_us=-1e-9), at + "floor_us=-1e-09"),
                 (changed(us=None), at + "us is missing"), (changed(tokens=1.5), at + "tokens=1.5"), (changed(tokens=2**63), at + "tokens="),
                 (changed(tokens=-1), at + "tokens=-1"), (changed(op=7), at + "op=7, need a string"), (changed(op=""), at + "op is missing"),
                 (changed(bytes=1e21), at + "bytes=1e+21"), (changed(eager=1), at + "eager=1"), (changed(strategy=[]), at + "strategy=[]"),
                 (small_results(bench=[]), "bench=[]"), (small_results(bench={"m": {}}), "bench.m has no rows"),
                 (small_results(bench={"m": {"rows": 3}}), "bench.m.rows=3"), (small_results(bench={"m": {"rows": [3]}}), "bench.m.rows[0]=3"),
                 (small_results(bench={"m": {"rows": [], "ranks": 0}}), "bench.m.ranks=0"),
                 (small_results(bench={"m": {"rows": [], "read_gbps": -3}}), "bench.m.read_gbps=-3"),
                 (small_results(bench={"m": {"rows": [], "checks": [1]}}), "bench.m.checks[0]=1"), (small_results(layer={}), "layer has no rows"),
                 ({"expert_counts": []}, "expert_counts=[]"), ({"expert_counts": [1, -1]}, "expert_counts[1]=-1"),
                 ({"expert_counts": {"a": 1}}, "expert_counts="), ({}, "holds no run"), ({"tests": {"passed": 1}}, "holds no run"),
                 ("[]", "holds [], need one object"), ("[" * 100_000, "nested deeper"), ('{"a":' * 100_000, "nested deeper"),
                 ('{"rows":[{"us":1e999}]}', "is no JSON"), ('{"rows": [', "is no JSON"), ('{"rows": NaN}', "is no JSON"), (b'{"a":"\xff"}', "is no JSON"),
                 ("", "is empty"), (" \n", "is empty"), ("\x7fELF\x00", "has no column model"), ("model\ttokens\n", "has no column floor_us"),
                 ("model\ttokens\tfloor_us\n", "has no column NAME_layer_us"), ("model\ttokens\tfloor_us\ta_layer_us\nm\t1\t2\n", "line 2 has 3 fields, need 4"),
                 ("model\ttokens\tfloor_us\ta_layer_us\nm\t1\t0\t2\n", "line 2.floor_us=0"),
                 ("model\ttokens\tfloor_us\ta_layer_us\nm\t1\t1\tfast\n", "line 2.a_layer_us=fast"), (PEERS.read_text(), "holds times of peers alone")]
        self.out.write_text("old")
        for content, says in cases:
            with self.subTest(says):
                error = self.refused("report", self.write(content, "bad"), "--output", self.out, says=says)
                self.assertRegex(error, r"^switchyard: report: path=[^\n]*/bad, .*\. .*\.\n$")
                self.assertEqual(self.out.read_text(), "old")
        self.assertEqual(sorted(os.listdir(self.folder)), ["bad", "out.html"])
        self.refused("report", self.folder, "--output", self.out, says="is no regular file")
        self.refused("report", self.folder / "none", "--output", self.out, says="does not exist")
        self.refused("report", says="required")
        # Of a terminal nothing is left in an error that it would obey.
        self.assertNotIn("\x1b", self.refused("report", self.write(small_results(bench={"\x1b[31m": {}})), "-o", self.out, says="has no rows"))

    def test_any_value_may_be_any_other(self):
        """A page or one line, whatever stands where."""
        rng = random.Random(7)
        others = [None, True, -1, 0, 1e-300, 1e12, 1e300, 2**64, "", "x" * 5000, [], {}, [[]], {"rows": []}, [1, 2], "2026-11-01"]

        def places(value, found):
            for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
                found.append((value, key))
                places(value[key], found)
            return found
        pages = 0
        for _ in range(150):
            results = small_results()
            for _ in range(rng.choice((1, 1, 2, 5))):
                value, key = rng.choice(places(results, []))
                value[key] = copy.deepcopy(rng.choice(others))
            done = switchyard("report", self.write(results))
            with self.subTest(results=json.dumps(results)[:3000]):
                self.assertIn(done.returncode, (0, 2), done.stderr)
                if done.returncode == 0:
                    Page(done.stdout.decode())
                    self.assertNotRegex(done.stdout.decode().split("<main>")[1].split("id=\"data\"")[0], r'"(-?nan|-?inf)|[ ,"](-?nan|-?inf)[,"< ]')
                    pages += 1
                else:
                    self.assertEqual(done.stderr.count(b"\n"), 1)
        self.assertGreater(pages, 10)

    def test_extreme_values_stay_inside_pictures(self):
        results = small_results()
        rows = results["bench"]["olmoe-1b-7b"]["rows"]
        rows[1] |= {"us": 1e12, "floor_us": 1e-6, "us_max": 1e12, "us_min": 1e-300, "bytes": 1e20, "flops": 1e-300}
        rows[3] |= {"us": 1e-6, "floor_us": 1e12, "tokens": 2**31 - 1}
        for name, root in self.pictures(self.write(results)).items():
            numbers = [float(n) for e in root.iter() for a in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy") if (n := e.get(a))]
            self.assertTrue(all(-60 <= n <= 700 for n in numbers), (name, numbers))

    def test_many_runs_stay_below_the_limit_or_are_refused(self):
        run = small_results()["bench"]["olmoe-1b-7b"]
        many = {f"model {i} " + "x" * 200: run for i in range(300)}
        self.page(self.write({"bench": many}))

    # ---- files

    def test_an_input_is_never_replaced(self):
        path = self.write(small_results())
        before = path.read_bytes()
        self.refused("report", path, "--output", path, says="is a results file as well. Name another file")
        os.link(path, self.folder / "same.html")
        self.refused("report", path, "--output", self.folder / "same.html", says="as well")
        os.link(path, self.folder / "operations-olmoe-1b-7b-64.svg")
        os.link(path, self.folder / "ratio-olmoe-1b-7b.svg")
        self.refused("report", path, "--svg-dir", self.folder, says="as well")
        self.assertEqual(path.read_bytes(), before)
        self.assertEqual([p.name for p in self.folder.glob("*.svg") if p.read_bytes() != before], [])

    def test_targets_are_looked_at_before_anything_is_written(self):
        path = self.write(small_results())
        self.refused("report", path, "--output", self.folder / "no" / "out.html", says="its folder does not exist")
        self.refused("report", path, "--output", self.folder, says="is no regular file")
        (self.folder / "link.html").symlink_to(self.out)
        self.refused("report", path, "--output", self.folder / "link.html", says="is a link")
        self.refused("report", path, "--output", self.out, "--svg-dir", self.folder / "no", says="its folder does not exist")
        self.assertFalse(self.out.exists())
        self.out.write_text("old")
        self.out.chmod(0o640)
        self.page(path)
        self.assertEqual(self.out.stat().st_mode & 0o777, 0o640)

    def test_bench_looks_at_its_report_before_it_measures(self):
        bench = ["bench", "--preset", "deepseek-v3", "--tokens", 8192, "--report"]  # which takes minutes
        self.refused(*bench, self.folder / "no" / "out.html", says="its folder does not exist")
        model = self.folder / "model"
        model.mkdir()
        for name in ("config.json", "model.safetensors"):
            (model / name).write_bytes((SOURCE / "data/tiny-code-moe" / name).read_bytes())
        self.refused("bench", "--model", model, "--layer", 1, "--report", model / "config.json",
                     says="--report=")

    def test_help_teaches(self):
        text = switchyard("report", "--help").stdout.decode()
        for word in ("FILE", "--output", "--svg-dir", "peers", "trend", "Example:"):
            self.assertIn(word, text)
        self.assertIn("report", switchyard("--help").stdout.decode())
        self.assertIn("--report", switchyard("bench", "--help").stdout.decode())


if __name__ == "__main__":
    unittest.main()
