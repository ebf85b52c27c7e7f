#!/usr/bin/env python3
"""Checks what neither a compiler nor a test looks at in *.md files.

Relative links and their anchors exist, and every C++ block that follows a marker
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root.resolve()
    pages = [p for p in sorted(root.rglob("*.md")) if p.relative_to(root).parts[0] != "build"]
    found = [f for page in pages for check in (link_faults, snippet_faults) for f in check(root, page)]
    for line in found:
        print(line)
    print(f"docs: {f'{len(pages)} pages good' if not found else f'{len(found)} faults'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
