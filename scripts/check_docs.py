#!/usr/bin/env python3
"""Checks what neither a compiler nor a test looks at in *.md files.

Relative links and their anchors exist, tables render as tables, and every C++ block that follows a marker
`<!-- snippet: examples/embed/embed.cc name -->` equals the region between `// [name]` lines of that file.
"""
import argparse
import pathlib
import re
import sys
import textwrap

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
SNIPPET = re.compile(r"<!-- snippet: (\S+) (\S+) -->\n```cpp\n(.*?)```", re.S)


def anchors(path):
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            text = re.sub(r"[`*]", "", line.lstrip("#").strip()).lower()
            yield re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def prose(text):
    """The text without fenced code blocks."""
    return re.sub(r"```.*?```", "", text, flags=re.S)


def link_faults(root, path):
    for target in LINK.findall(prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        at = (path.parent / name).resolve() if name else path
        if not at.exists():
            yield f"{path.relative_to(root)}: {target}: no such file"
        elif anchor and at.suffix == ".md" and anchor not in anchors(at):
            yield f"{path.relative_to(root)}: {target}: no such heading"


def snippet_faults(root, path):
    for source, name, block in SNIPPET.findall(path.read_text()):
        at = root / source
        region = re.search(rf"// \[{name}\]\n(.*?)// \[{name}\]\n", at.read_text() if at.exists() else "", re.S)
        if region is None:
            yield f"{path.relative_to(root)}: {source} has no region {name}"
        elif textwrap.dedent(region.group(1)).strip() != block.strip():
            yield f"{path.relative_to(root)}: the block differs from region {name} of {source}"


def cells(row):
    """How many cells a row has: a | inside code divides, too, unless it is escaped."""
    return len(re.findall(r"(?<!\\)\|", row.strip())) - 1


def table_faults(root, path):
    """A table is a header, a line of dashes and rows, all of as many cells, behind an empty line."""
    text = re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), path.read_text(), flags=re.S)
    lines = [""] + text.splitlines()
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("|"):
            continue
        at = f"{path.relative_to(root)}:{number}"
        if not line.rstrip().endswith("|"):
            yield f"{at}: a row does not end with |"
        if lines[number - 1].lstrip().startswith("|"):
            if cells(line) != cells(lines[number - 1]):
                yield f"{at}: {cells(line)} cells, the row above has {cells(lines[number - 1])}"
        elif lines[number - 1].strip():
            yield f"{at}: a table without an empty line before it"
        elif number + 1 == len(lines) or not re.fullmatch(r"\|( *:?-+:? *\|)+", lines[number + 1].strip()):
            yield f"{at}: a table without a line of dashes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root.resolve()
    pages = [p for p in sorted(root.rglob("*.md")) if p.relative_to(root).parts[0] != "build"]
    found = [f for page in pages for check in (link_faults, snippet_faults, table_faults) for f in check(root, page)]
    for line in found:
        print(line)
    print(f"docs: {f'{len(pages)} pages good' if not found else f'{len(found)} faults'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
