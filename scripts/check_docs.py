#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Checks what neither a compiler nor a test looks at in *.md files.

Relative links and their anchors exist; tables render as tables, and text as text; every block that follows a marker
`<!-- snippet: examples/embed/embed.cc name -->` equals the region between `// [name]` lines (Python: `# [name]`) of
that file; pages of measurements hold what bench/results says; every decision has its parts and a row in the index;
README.md has at most 150 lines; prose has at most 120 columns and none of the words that say less than the field's
term. Where the package markdown-it-py is installed, pages are rendered by it, too.
"""
import argparse
import pathlib
import re
import sys
import textwrap

import measurements

try:
    from markdown_it import MarkdownIt
except ImportError:
    MarkdownIt = None

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
COLUMNS, README_LINES = 120, 150
WORDS = re.compile(r"\b(nobody|whoever|told|stands)\b", re.I)
DECISION_PARTS = ("Context", "Prediction", "Measurement", "Verdict", "Revisit when")
SNIPPET = re.compile(r"<!-- snippet: (\S+) (\S+) -->\n```(?:cpp|c|python)\n(.*?)```", re.S)


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
        region = re.search(rf"(?://|#) \[{name}\]\n(.*?)(?://|#) \[{name}\]\n", at.read_text() if at.exists() else "", re.S)
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
        elif lines[number - 1].strip() and not lines[number - 1].startswith("<!--"):
            yield f"{at}: a table without an empty line before it"
        elif number + 1 == len(lines) or not re.fullmatch(r"\|( *:?-+:? *\|)+", lines[number + 1].strip()):
            yield f"{at}: a table without a line of dashes"
        if number + 1 < len(lines) and lines[number + 1].strip() and not lines[number + 1].lstrip().startswith(("|", "<!--")):
            yield f"{at}: text after a table without an empty line becomes a row"


def text_lines(path):
    """Number and text of every line outside fenced code."""
    text = re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), path.read_text(), flags=re.S)
    yield from enumerate(text.splitlines(), 1)


def html_faults(root, path):
    """<name> outside code is a tag to a renderer: the reader never sees it."""
    for number, line in text_lines(path):
        for tag in re.findall(r"</?[a-zA-Z][^>\s]*>", re.sub(r"`[^`]*`", "", line)):
            if not re.match(r"<(https?:|/?(br|sub|sup)>)", tag):
                yield f"{path.relative_to(root)}:{number}: {tag} is lost when rendered, write `{tag}`"


def rendered_faults(root, path):
    """Every line that looks like a row is in a table of the rendered page."""
    if MarkdownIt is None:
        return
    inside = set()
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text()):
        if token.type in ("table_open", "fence", "code_block") and token.map:
            inside.update(range(token.map[0] + 1, token.map[1] + 1))
    for number, line in text_lines(path):
        if line.lstrip().startswith("|") and number not in inside:
            yield f"{path.relative_to(root)}:{number}: the row is rendered as text"


def is_manual(root, path):
    """A page that people write for readers of this version: neither generated nor a list of changes."""
    name = path.relative_to(root).as_posix()
    return (name in ("README.md", "CONTRIBUTING.md") or name.startswith("docs/")) and not name.startswith(measurements.PAGES + "/")


def prose_faults(root, path):
    if not is_manual(root, path):
        return
    for number, line in text_lines(path):
        at = f"{path.relative_to(root)}:{number}"
        if len(line) > COLUMNS and not line.lstrip().startswith(("|", "<!--")):
            yield f"{at}: {len(line)} columns, at most {COLUMNS}"
        for word in WORDS.findall(re.sub(r"`[^`]*`", "", line)):
            yield f"{at}: \"{word}\" says less than the field's term"
    if path == root / "README.md" and (count := len(path.read_text().splitlines())) > README_LINES:
        yield f"README.md: {count} lines, at most {README_LINES}"


def decision_faults(root):
    """docs/decisions/NNNN-name.md: a title with its number, every part, a row in the index."""
    folder = root / "docs" / "decisions"
    index = (folder / "README.md").read_text() if (folder / "README.md").exists() else ""
    for path in sorted(folder.glob("[0-9]*.md")):
        at, text = path.relative_to(root), path.read_text()
        if not text.startswith(f"# {path.name[:4]} "):
            yield f"{at}: the title does not begin with {path.name[:4]}"
        yield from (f"{at}: no heading {part}" for part in DECISION_PARTS if f"\n## {part}\n" not in text)
        if f"({path.name})" not in index:
            yield f"{at}: no row in docs/decisions/README.md"


def measurement_faults(root):
    for path in measurements.stale(root):
        yield f"{path.relative_to(root)}: stale, run scripts/measurements.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root.resolve()
    pages = [p for p in sorted(root.rglob("*.md")) if p.relative_to(root).parts[0] != "build"]
    of_pages = (link_faults, snippet_faults, table_faults, rendered_faults, html_faults, prose_faults)
    found = [f for page in pages for check in of_pages for f in check(root, page)]
    found += [f for check in (decision_faults, measurement_faults) for f in check(root)]
    for line in found:
        print(line)
    rendered = "" if MarkdownIt else ", not rendered: markdown-it-py is not installed"
    print(f"docs: {f'{len(pages)} pages good{rendered}' if not found else f'{len(found)} faults'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
