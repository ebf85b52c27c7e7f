# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts that guard the tree can fail, and pass on what is right."""
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import coverage  # noqa: E402
import mutate  # noqa: E402


def run(script, root, *options):
    return subprocess.run([sys.executable, ROOT / "scripts" / script, root, *options], capture_output=True, text=True)


class Tree(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Layers(Tree):
    def fault(self, name, header):
        self.write(name, f'#include "{header}"\n' if not header.startswith("<") else f"#include {header}\n")
        result = run("check_layers.py", self.root)
        return result.stdout if result.returncode else ""

    def test_up_sideways_and_foreign_includes_are_faults(self):
        for name, header in [("src/base/a.h", "ops/ops.h"), ("src/cpu/a.cc", "weights/b.h"), ("src/ops/a.cc", "strategy/b.h"),
                             ("cli/a.cc", "base/require.h"), ("include/switchyard/a.h", "base/require.h"),
                             ("src/layer/a.cc", "<nlohmann/json.hpp>"), ("src/gate/a.cc", "<hwy/highway.h>"),
                             ("src/new_room/a.cc", "base/require.h")]:
            with self.subTest(name=name, header=header):
                self.setUp()
                self.assertIn(name, self.fault(name, header))

    def test_down_own_and_public_includes_are_good(self):
        for name, header in [("src/layer/a.cc", "gate/b.h"), ("src/cpu/a.cc", "cpu/b.h"), ("src/cpu/a.cc", "ops/ops.h"),
                             ("cli/a.cc", "switchyard/layer.h"), ("include/switchyard/a.h", "<vector>")]:
            with self.subTest(name=name, header=header):
                self.setUp()
                self.assertEqual("", self.fault(name, header))

    def test_a_public_header_shows_what_it_declares(self):
        self.write("include/switchyard/a.h", "namespace switchyard {\n}  // namespace switchyard\n")
        self.assertIn("a.h: the namespace is not opened as", run("check_layers.py", self.root).stdout)
        self.write("include/switchyard/a.h", 'namespace [[gnu::visibility("default")]] switchyard {\n}  // namespace switchyard\n')
        self.assertEqual(0, run("check_layers.py", self.root).returncode)


@unittest.skipUnless(shutil.which("git"), "needs git")
class Licences(Tree):
    def setUp(self):
        super().setUp()
        subprocess.run(["git", "init", "--quiet", self.root], check=True)

    def test_code_without_a_line_is_named_and_gets_it(self):
        self.write("a.cc", "// a.cc\nint a;\n")
        self.write("b.sh", "#!/bin/sh\n# b.sh\n")
        self.write("c.h", "// SPDX-FileCopyrightText: The Switchyard authors\n// SPDX-License-Identifier: MIT\n")
        self.write("CMakeLists.txt", "project(a)\n")
        self.write("prose.md", "# Prose\n")
        self.write("words.txt", "word\n")
        result = run("check_licences.py", self.root)
        self.assertEqual(1, result.returncode)
        self.assertEqual([f"{name}: lacks its licence" for name in ("CMakeLists.txt", "a.cc", "b.sh", "c.h")] + ["licences: 4 files"],
                         result.stdout.splitlines())
        self.assertEqual(0, run("check_licences.py", self.root, "--write").returncode)
        self.assertEqual("licences: good\n", run("check_licences.py", self.root).stdout)
        self.assertEqual("// SPDX-FileCopyrightText: The Switchyard authors\n// SPDX-License-Identifier: Apache-2.0\n// a.cc\nint a;\n",
                         (self.root / "a.cc").read_text())
        self.assertTrue((self.root / "b.sh").read_text().startswith("#!/bin/sh\n# SPDX-FileCopyrightText"))


class Docs(Tree):
    def fault(self):
        result = run("check_docs.py", self.root)
        return result.stdout if result.returncode else ""

    def test_dead_links_and_anchors_are_faults(self):
        self.write("a.md", "[x](b.md) [y](#there) [z](c.md#no)\n# There\n")
        self.write("c.md", "# Yes\n")
        found = self.fault()
        self.assertIn("b.md: no such file", found)
        self.assertIn("c.md#no: no such heading", found)
        self.assertNotIn("#there", found)

    def test_a_table_that_does_not_render_is_a_fault(self):
        good = "text\n\n| a | b |\n| --- | --: |\n| `x \\| y` | 2 |\n"
        self.write("a.md", good + "\n```\n| no table\n```\n")
        self.assertEqual("", self.fault())
        for broken, found in [(good.replace("\\|", "|"), "a.md:5: 3 cells, the row above has 2"),
                              (good.replace("text\n\n", "text\n"), "a.md:2: a table without an empty line"),
                              (good.replace("| --- | --: |\n", ""), "a.md:3: a table without a line of dashes"),
                              (good.replace("2 |", "2"), "a.md:5: a row does not end with |"),
                              (good + "text\n", "a.md:5: text after a table")]:
            with self.subTest(found=found):
                self.write("a.md", broken)
                self.assertIn(found, self.fault())

    def test_a_snippet_must_equal_its_region(self):
        self.write("a.md", "<!-- snippet: e.cc one -->\n```cpp\nint a;\n```\n")
        self.write("e.cc", "// [one]\nint b;\n// [one]\n")
        self.assertIn("differs from region one", self.fault())
        self.write("e.cc", "// [one]\nint a;\n// [one]\n")
        self.assertEqual("", self.fault())
        self.write("a.md", "<!-- snippet: e.py two -->\n```python\na = 1\n```\n")
        self.write("e.py", "  # [two]\n  a = 2\n  # [two]\n")
        self.assertIn("differs from region two", self.fault())
        self.write("e.py", "  # [two]\n  a = 1\n  # [two]\n")
        self.assertEqual("", self.fault())

    def test_a_name_in_angle_brackets_outside_code_is_a_fault(self):
        self.write("a.md", "`-D<name>` <https://example.org> a<br>b\n")
        self.assertEqual("", self.fault())
        self.write("a.md", "\nin <folder>\n")
        self.assertIn("a.md:2: <folder> is lost", self.fault())

    def test_prose_of_the_manual_has_a_width_and_words_to_leave_out(self):
        wide = "word " * 25 + "\n"
        self.write("docs/guide/a.md", f"```\n{wide}nobody\n```\n\n| {wide.strip()} |\n| --- |\n\n`told` understands\n")
        self.write("docs/measurements/README.md", wide)
        self.assertNotIn("docs/guide", self.fault())
        self.write("docs/guide/a.md", f"{wide}It stands.\n")
        found = self.fault()
        self.assertIn("docs/guide/a.md:1: 125 columns, at most 120", found)
        self.assertIn('docs/guide/a.md:2: "stands"', found)

    def test_the_readme_is_short(self):
        self.write("README.md", "line\n" * 150)
        self.assertEqual("", self.fault())
        self.write("README.md", "line\n" * 151)
        self.assertIn("README.md: 151 lines, at most 150", self.fault())

    def test_a_decision_has_its_parts_and_a_row(self):
        parts = "".join(f"\n## {part}\n\ntext\n" for part in ("Context", "Prediction", "Measurement", "Verdict", "Revisit when"))
        self.write("docs/decisions/0001-a.md", "# 0001 A\n" + parts)
        self.write("docs/decisions/README.md", "[0001](0001-a.md)\n")
        self.assertEqual("", self.fault())
        self.write("docs/decisions/0002-b.md", "# B\n" + parts.replace("Verdict", "End"))
        found = self.fault()
        self.assertIn("0002-b.md: the title does not begin with 0002", found)
        self.assertIn("0002-b.md: no heading Verdict", found)
        self.assertIn("0002-b.md: no row in docs/decisions/README.md", found)


class TunedGemms(Tree):
    """From what `switchyard bench --tune --json` printed to the table that is compiled."""
    TABLE = "src/strategy/gemm_table.cc"
    BEST = "64x128x64, 7 stages, cluster of 1"

    def gemm(self, rows, in_table, **more):
        times = [{"config": self.BEST, "us": 100.0, "first_us": 120.0, "us_of_rounds": [100.0], "problem": ""},
                 {"config": "8x8", "us": None, "first_us": 345.0, "us_of_rounds": [], "problem": ""},
                 {"config": "9x9", "us": None, "first_us": 0.0, "us_of_rounds": [], "problem": "other bits"}]
        return {"tokens": rows // 8, "gemm": 1, "experts": 128, "n": 1536, "k": 2048, "gated": True, "rows": rows, "by_rule": "the rule's", "chosen": "now",
                "best": self.BEST, "gain": 1.2, "in_table": in_table, "times": times, **more}

    def results(self, name, gemms, **more):
        """A results file, by the way that scripts/gpu_check.sh goes."""
        run_of = {"layer": "preset m", "device": "NVIDIA H200", "num_sms": 132, "read_gbps": 4474.25, "experts": "bf16", "date": "2026-12-01T03:04:05Z",
                  "commit": "abc1234", "rounds": 3, "repeat": 9, "gemms": gemms, "problems": [], **more}
        self.write("state/tune/m.json", json.dumps(run_of))
        self.write("state/tune/n.json", "")
        self.write("state/tune/n.err", "switchyard: out of memory\n")
        (self.root / "bench/results").mkdir(parents=True, exist_ok=True)
        return subprocess.run([sys.executable, ROOT / "scripts/gpu_results.py", "tune", self.root / "state", self.root / f"bench/results/{name}.json", "abc1234"],
                              capture_output=True, text=True, check=True).stdout

    def table(self):
        self.write(self.TABLE, "old")
        result = run("gemm_table.py", self.root)
        self.assertEqual((0, f"{self.TABLE}: written\n"), (result.returncode, result.stdout), result.stderr)
        self.assertEqual(0, run("gemm_table.py", self.root, "--check").returncode)
        return (self.root / self.TABLE).read_text()

    def test_the_table_has_what_is_better_than_the_rule(self):
        shown = self.results("one", [self.gemm(1024, True), self.gemm(2048, False), self.gemm(4096, True, gated=False),
                                     self.gemm(4096, True, gated=False, gemm=2, best="its own")])
        self.assertIn(f"GEMM1  1.200  {self.BEST}, not the rule's", shown)
        self.assertIn("out of memory", shown)
        text = self.table()
        self.assertIn(f"""constexpr TunedGemm kNVIDIAH200[] = {{
    // m, bench/results/one.json, 2026-12-01
    {{OperandKind::Bf16, 128, 1536, 2048, true, 1024, "{self.BEST}"}},
    {{OperandKind::Bf16, 128, 1536, 2048, false, 4096, "{self.BEST}"}},
}};
constexpr TunedGpu kGpus[] = {{
    {{"NVIDIA H200", 132, 4474.2, kNVIDIAH200}},
}};
""", text)
        self.assertIn("return kGpus;", text)

    def test_a_stale_table_is_named_and_left(self):
        self.results("one", [self.gemm(1024, True)])
        text = self.table()
        self.results("one", [self.gemm(512, True)])
        check = run("gemm_table.py", self.root, "--check")
        self.assertEqual((1, f"{self.TABLE}: stale, run scripts/gemm_table.py\n"), (check.returncode, check.stdout))
        self.assertEqual(text, (self.root / self.TABLE).read_text())

    def test_without_results_or_gains_it_is_empty(self):
        empty = self.table()
        self.assertIn("return {};", empty)
        self.results("one", [self.gemm(1024, False)])
        self.assertEqual(empty, self.table())

    def test_gpus_and_dtypes_are_kept_apart_and_shapes_are_measured_once(self):
        self.results("one", [self.gemm(1024, True)])
        self.results("two", [self.gemm(1024, True)], device="NVIDIA H100 80GB HBM3", read_gbps=3050.3)
        self.results("three", [self.gemm(1024, True)], experts="f8_e4m3")
        text = self.table()
        for part in ("kNVIDIAH200[]", "kNVIDIAH10080GBHBM3[]", "{OperandKind::F8E4m3, 128, 1536", '{"NVIDIA H100 80GB HBM3", 132, 3050.3, kNVIDIAH10080GBHBM3}'):
            self.assertEqual(1, text.count(part), part)
        self.results("twice", [self.gemm(1024, False)])
        result = run("gemm_table.py", self.root)
        self.assertEqual(2, result.returncode)
        self.assertIn("is in bench/results/one.json, too", result.stderr)

    def test_pages_of_measurements_have_every_configuration(self):
        self.results("one", [self.gemm(1024, True)])
        self.assertEqual(0, run("measurements.py", self.root).returncode)
        page = (self.root / "docs/measurements/one.md").read_text()
        for part in ("Configurations of grouped GEMMs", "NVIDIA H200", self.BEST, "| 8x8 |", "345", "1.20", "out of memory", "scripts/gpu_check.sh tune"):
            self.assertIn(part, page)
        self.assertNotIn("9x9", page)


class Measurements(Tree):
    PAGE = "docs/measurements/one.md"

    def results(self, us):
        row = {"op": "layer_given_routing", "strategy": "local+hybrid", "layout": "masked", "tokens": 8, "us": us, "us_min": 1.0, "us_max": 99.0,
               "floor_us": 20.0}
        run = {"config": {"hidden": 8}, "layer": "preset m", "gemm_tflops": 7.0, "read_gbps": 8.0, "copy_gbps": 9.0, "sm_clock_mhz": 10.0,
               "repeat": 20, "rows": [row]}
        self.write("bench/results/one.json", json.dumps({
            "gpu": "A GPU", "driver": "1.2", "date": "2026-01-02T03:04:05Z", "commit": "abc1234", "bench": {"m": run, "n": {"error": "ended with 3", "rows": []}},
            "tests": {"filter": "*A*|B", "passed": 1, "failed": 1, "skipped": 0, "failures": ["A.B"], "skips": []},
            "notes_of_a_kind": {"rows": [{"options": "--x", "late": 3}, {"options": "--y", "seen": "no * in it"}]}}))

    def test_pages_hold_every_row_and_where_it_is_from(self):
        self.results(30.0)
        self.assertEqual(0, run("measurements.py", self.root).returncode)
        page = (self.root / self.PAGE).read_text()
        for text in ("A GPU", "1.2", "2026-01-02", "abc1234", "`scripts/gpu_check.sh tests bench bench/results/one.json`", "30.0", "1.50", "`A.B`", "ended with 3",
                     "--x", "`no * in it`"):
            self.assertIn(text, page)
        self.assertIn("(one.md)", (self.root / "docs/measurements/README.md").read_text())
        self.assertEqual("", run("check_docs.py", self.root).stdout.replace("docs: 2 pages good", "").split(",")[0].strip())

    def test_peers_stand_beside_ours(self):
        def row(peer, us, op="layer_given_routing"):
            return {"op": op, "peer": peer, "tokens": 8, "active_experts": 4, "us": us, "floor_us": 20.0}
        run_of = {"layer": "preset m", "config": {"hidden": 8}, "read_gbps": 8.0, "gemm_tflops": 7.0, "repeat": 20, "rows": [
            row("switchyard", 40.0), row("switchyard-op", 39.0), row("slow", 60.0), row("fast", 50.0), row("fast", 70.0, "layer")],
            "not_timed": [{"peer": "wrong", "reason": "wrong: error 2.0e+00"}]}
        self.write("bench/results/one.json", json.dumps({
            "device": "A CPU", "date": "2026-01-02T03:04:05Z", "command": "python -m switchyard.bench", "versions": {"torch": "2.11", "cuda": None},
            "missing": {"absent": "is not installed"}, "bench": {"m": run_of}}))
        self.write("README.md", "<!-- measurements: one peers m 8 -->\nold\n<!-- end of measurements -->\n")
        self.assertEqual(0, run("measurements.py", self.root).returncode)
        page = (self.root / self.PAGE).read_text()
        lines = [line.split() for line in page.splitlines()]
        given = ["|", "m", "|", "8", "|", "given", "|", "4", "|", "20.0", "|", "40.0", "|", "39.0", "|", "60.0", "|", "50.0", "|", "fast", "|", "1.25", "|"]
        self.assertIn(given, lines)
        for text in ("A CPU", "torch 2.11", "wrong: error 2.0e+00", "best peer over ours", " run "):
            self.assertIn(text, page)
        self.assertNotIn("absent", page)
        self.assertIn(["|", "m", "|", "8", "|", "20.0", "|", "40.0", "|", "39.0", "|", "60.0", "|", "50.0", "|", "1.25", "|"],
                      [line.split() for line in (self.root / "README.md").read_text().splitlines()])

    def test_a_stale_page_is_named_by_both_scripts(self):
        self.results(30.0)
        self.write("README.md", "<!-- measurements: one layers m 8 -->\nold\n<!-- end of measurements -->\n")
        run("measurements.py", self.root)
        self.assertIn("30.0", (self.root / "README.md").read_text())
        self.assertEqual(0, run("measurements.py", self.root, "--check").returncode)
        self.results(40.0)
        self.write("docs/measurements/gone.md", "of a file that is gone\n")
        before = (self.root / self.PAGE).read_text()
        check, docs = run("measurements.py", self.root, "--check"), run("check_docs.py", self.root)
        self.assertEqual((1, 1), (check.returncode, docs.returncode))
        for page in (self.PAGE, "README.md", "docs/measurements/gone.md"):
            self.assertIn(f"{page}: stale", check.stdout)
            self.assertIn(f"{page}: stale", docs.stdout)
        self.assertEqual(before, (self.root / self.PAGE).read_text())
        run("measurements.py", self.root)
        self.assertFalse((self.root / "docs/measurements/gone.md").exists())
        self.assertEqual(0, run("measurements.py", self.root, "--check").returncode)


class Reference(Tree):
    """What scripts/doxygen_filter.py gives Doxygen."""

    def of(self, name, text):
        self.write(name, text)
        result = subprocess.run([sys.executable, ROOT / "scripts/doxygen_filter.py", self.root / name], capture_output=True, text=True, check=True)
        self.assertEqual(text.count("\n"), result.stdout.count("\n"))
        return result.stdout

    def test_comments_of_cpp_become_texts(self):
        for before, after in [
                ("// Of a call.\nint a;\n", "/// Of a call.\nint a;\n"), ("int a;  // <kind> of b\n", "int a;  ///< \\<kind\\> of b\n"),
                ("int a;  // begins\n        // and goes on\nint b;\n", "int a;  ///< begins\n        ///< and goes on\nint b;\n"),
                ("/// `a<b>` @ c\n", "/// `a<b>` \\@ c\n"), ("// ---- a section\n", "// ---- a section\n"),
                ('const char* a = "http://b";\n', 'const char* a = "http://b";\n'),
                ("namespace [[gnu::visibility(\"default\")]] a {\n", "namespace a {\n"),
                ("// SPDX-License-Identifier: Apache-2.0\n", "// SPDX-License-Identifier: Apache-2.0\n")]:
            self.assertEqual(after, self.of("a.h", before))

    def test_comments_of_c_become_texts(self):
        for before, after in [
                ("/* Of a call.\n * More. */\nint a;\n", "/** Of a call.\n * More. */\nint a;\n"), ("int a; /* of <b> */\n", "int a; /**< of \\<b\\> */\n"),
                ("/* ---- a section */\n", "/* ---- a section */\n")]:
            self.assertEqual(after, self.of("switchyard.h", before))


class Faults(unittest.TestCase):
    """What scripts/mutate.py would change."""

    def of(self, source):
        faults = mutate.faults_of("src/base/a.cc", source)
        return {source[:f.begin] + f.text + source[f.end:] for f in faults}

    def test_operators_constants_conditions_checks_and_statements(self):
        source = "int f(int a) {\n  if (a < 3) g(a);\n  return !a && b;\n}\n"
        found = self.of(source)
        for change in [("<", "<="), ("3", "4"), ("a < 3", "false"), ("a < 3", "true"), ("!a", "a"), ("&&", "||")]:
            self.assertIn(source.replace(*change), found)
        for check in "SWITCHYARD_REQUIRE(a == 1, BadFile, \"a: \", a)", "throw Error(a)", "refuse(a)":
            source = f"void f() {{\n  {check};\n}}\n"
            self.assertIn(source.replace(check, ""), self.of(source))
        source = "void f() {\n  x_ = a;\n  g(\n      b);\n}\n"
        self.assertIn(source.replace("x_ = a", ""), self.of(source))
        self.assertIn(source.replace("g(\n      b)", ""), self.of(source))

    def test_comments_text_includes_and_types_stay(self):
        for source in ("// a < 3 && b\n", "const char* t = \"a < 3\";\n", "#define A 3 < 4\n", "std::vector<int> v;\n",
                       "static_assert(a == 3);\n", "void f(A&& a);\n", "double x = 1e-20;\n", "/* 3 */\n"):
            self.assertEqual(set(), self.of(source), source)

    def test_a_sample_is_the_same_for_a_seed_and_shares_the_folders(self):
        faults = [mutate.Fault(f"src/{folder}/a.cc", i, i, "", "check", 1, "") for folder in "ab" for i in range(50)]
        first = mutate.draw(faults, 20, 1)
        self.assertEqual(first, mutate.draw(faults, 20, 1))
        self.assertNotEqual(first, mutate.draw(faults, 20, 2))
        self.assertEqual([10, 10], [sum(f.folder == f"src/{folder}" for f in first) for folder in "ab"])
        self.assertEqual(faults, mutate.draw(faults, 0, 1))

    def test_what_was_killed_once_is_not_made_again(self):
        faults = [mutate.Fault("src/base/a.cc", i, i, "", "check", i, str(i)) for i in range(4)]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "faults.json"
            mutate.save(path, 1, [(faults[0], "killed", "A.B"), (faults[1], "survived", ""), (faults[3], "stillborn", "")])
            self.assertEqual(mutate.known(path, faults), [(faults[0], "killed", "A.B"), (faults[3], "stillborn", "")])
            moved = [dataclasses.replace(fault, line=9) for fault in faults]
            self.assertEqual(mutate.known(path, moved), [])


class Coverage(unittest.TestCase):
    def test_folders_are_counted_without_what_only_a_gpu_runs(self):
        line = lambda number, count: {"line_number": number, "count": count}
        report = {"files": [{"file": "src/base/a.cc", "lines": [line(1, 0), line(2, 3)]},
                            {"file": "src/base/a.cc", "lines": [line(1, 1), line(2, 0)]},
                            {"file": "src/base/b.h", "lines": [line(1, 0), dict(line(2, 0), **{"gcovr/noncode": True})]},
                            {"file": "src/cuda/a.cc", "lines": [line(1, 0)]},
                            {"file": "tests/a.cc", "lines": [line(1, 0)]}]}
        self.assertEqual([("src/base", 3, 2)], coverage.by_folder(coverage.lines_of(report)))
        self.assertIn("66.7     85  below", coverage.table([("src/base", 3, 2, 85)]))
        self.assertNotIn("below", coverage.table([("src/base", 100, 85, 85)]))


if __name__ == "__main__":
    unittest.main()
