#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that every file of code names the copyright holder and the licence in its first lines.

    scripts/check_licences.py            the files that are missing one
    scripts/check_licences.py --write    gives it to them
"""
import argparse
import pathlib
import subprocess
import sys

LINES = ("SPDX-FileCopyrightText: The Switchyard authors", "SPDX-License-Identifier: Apache-2.0")
# What comes before and after a line of comment, by a file's last suffix or by its name.
SLASHES, BLOCK, HASH = ("// ", ""), ("/* ", " */"), ("# ", "")
COMMENTS = {".cc": SLASHES, ".cu": SLASHES, ".cuh": SLASHES, ".h": SLASHES, ".rs": SLASHES, ".c": BLOCK, ".map": BLOCK,
            ".cmake": HASH, ".pc": HASH, ".py": HASH, ".pyi": HASH, ".sh": HASH, ".toml": HASH, ".yml": HASH, ".yaml": HASH,
            ".Containerfile": HASH, "CMakeLists.txt": HASH, "Containerfile": HASH, "Makefile": HASH, "run": HASH,
            ".clang-format": HASH, ".clang-tidy": HASH}
NOT_CODE = ("tests/fuzz/corpus/", "tests/data/", "data/")


def comment_of(path, text):
    """How this file comments a line; None: it is not code."""
    name = path.name.removesuffix(".in")
    if name == "switchyard.h":  # C99, and so as C89 has it
        return BLOCK
    if text.startswith("#!"):
        return HASH
    return COMMENTS.get(name) or COMMENTS.get(pathlib.PurePath(name).suffix)


def files(root):
    """Those that git tracks or could."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, check=True,
                            capture_output=True, text=True).stdout.split("\0")
    return sorted(root / name for name in listed if name and not name.startswith(NOT_CODE) and (root / name).is_file())


def missing(path):
    """The file's text and its form of comment, where a line is missing."""
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return None
    comment = comment_of(path, text)
    head = text.splitlines()[:5]
    if comment is None or all(any(line in other for other in head) for line in LINES):
        return None
    return text, comment


def with_lines(text, comment):
    before, after = comment
    added = "".join(f"{before}{line}{after}\n" for line in LINES)
    at = text.index("\n") + 1 if text.startswith("#!") else 0
    return text[:at] + added + text[at:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--write", action="store_true", help="add what is missing")
    arguments = parser.parse_args()
    found = [(path, *faults) for path in files(arguments.root) if (faults := missing(path))]
    for path, text, comment in found:
        print(f"{path.relative_to(arguments.root)}: {'got' if arguments.write else 'lacks'} its licence")
        if arguments.write:
            path.write_text(with_lines(text, comment))
    print(f"licences: {'good' if not found else f'{len(found)} files'}")
    return 1 if found and not arguments.write else 0


if __name__ == "__main__":
    sys.exit(main())
