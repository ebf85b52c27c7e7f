"""The scripts that guard the tree can fail, and pass on what is right."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def run(script, root):
    return subprocess.run([sys.executable, ROOT / "scripts" / script, root], capture_output=True, text=True)


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
        for name, header in [("src/base/a.h", "ops/ops.h"), ("src/cpu/a.cc", "weights/b.h"), ("src/ops/a.cc", "plan/b.h"),
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
                              (good.replace("2 |", "2"), "a.md:5: a row does not end with |")]:
            with self.subTest(found=found):
                self.write("a.md", broken)
                self.assertIn(found, self.fault())

    def test_a_snippet_must_equal_its_region(self):
        self.write("a.md", "<!-- snippet: e.cc one -->\n```cpp\nint a;\n```\n")
        self.write("e.cc", "// [one]\nint b;\n// [one]\n")
        self.assertIn("differs from region one", self.fault())
        self.write("e.cc", "// [one]\nint a;\n// [one]\n")
        self.assertEqual("", self.fault())


if __name__ == "__main__":
    unittest.main()
