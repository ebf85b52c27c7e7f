#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""A public header as Doxygen wants it: its comments, which Doxygen would pass over, become texts of what they stand at.

    doxygen_filter.py HEADER        # of docs/Doxyfile, which reads the result

`// text` before a declaration becomes `/// text`, after one `///< text`, and so for `/* text */`; what looks like HTML is
shown as it stands. Attributes, which Doxygen's parser takes for names, go. Lines keep their numbers.
"""
import pathlib
import re
import sys

SECTION = re.compile(r"^\s*(//|/\*) ----")  # a heading of a file
FILE = re.compile(r"^(// |/\* | \* )?(SPDX-|include/switchyard/)")
CONTROL = re.compile(r"NOLINT|clang-format")


def shown(text):
    """Of a comment: what Doxygen would take for HTML, commands or links stands as it is; so does `code`."""
    return re.sub(r"(`[^`\n]*`)|([<>@\\#])", lambda m: m[1] or "\\" + m[2], text)


def line_of_cpp(line, inside):
    """A line with //; inside: whether the line before was one, too, after code."""
    code, comment, text = line.partition("//")
    if code.count('"') % 2 or SECTION.match(line) or FILE.match(line) or CONTROL.search(line):
        return line
    text = text.lstrip("/")
    return f"{code}///{'<' if code.strip() or inside else ''}{shown(text)}"


def cpp(lines):
    after_code = False
    for line in lines:
        if "//" not in line:
            after_code = False
            yield line
            continue
        code = line.partition("//")[0]
        follows = after_code and not code.strip() and len(code) > 4  # a comment after code goes on below itself
        yield line_of_cpp(line, follows)
        after_code = bool(code.strip()) or follows


def c(text):
    def comment(match):
        whole, before = match[0], match.string[match.string.rfind("\n", 0, match.start()) + 1:match.start()]
        if SECTION.match(whole) or FILE.match(whole) or CONTROL.search(whole):
            return whole
        return f"/**{'<' if before.strip() else ''}{shown(whole[2:-2])}*/"

    return re.sub(r"/\*.*?\*/", comment, text, flags=re.S)


def main():
    path = pathlib.Path(sys.argv[1])
    text = path.read_text()
    text = c(text) if path.name == "switchyard.h" else "\n".join(cpp(text.splitlines())) + "\n"
    text = re.sub(r" ?\[\[[^\]]*\]\]", "", text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
