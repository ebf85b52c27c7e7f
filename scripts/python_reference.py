#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The reference of the Python package as web pages, by pdoc.

    python_reference.py OUTPUT

Signatures and texts of the compiled module are those of its stubs, so nothing is built. switchyard.torch and
switchyard.transformers are in it where those packages are installed. A warning, and a public name without a text, ends
it with exit code 1.
"""
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import tempfile
import warnings

import pdoc

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "python" / "switchyard"
NEEDS = {"switchyard.torch": "torch", "switchyard.transformers": "transformers"}
# What engines and the command line call; pdoc imports every module that it finds, and these need torch.
NO_PART = {"bench", "overhead", "peers", "vllm", "sglang", "_engines", "_vllm_kernel", "_quack_kernel"}
EXPERT_PARALLEL = "transformers.distributed.expert_parallel"  # of newer ones


def is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def copy_with_stubs(folder, missing):
    """The package with its stubs in place of the compiled module, without modules that cannot be imported here."""
    left_out = NO_PART | {name.rpartition(".")[2] for name in missing} | ({"_expert_parallel"} if not is_installed(EXPERT_PARALLEL) else set())
    for path in PACKAGE.glob("*.py"):
        if path.stem not in left_out:
            (folder / path.name).write_text(path.read_text())
    stubs = (PACKAGE / "_native.pyi").read_text()
    (folder / "_native.py").write_text(f"from __future__ import annotations\n{stubs}")


def to_markdown(text, *_):
    """Tables of arguments, which are indented, are shown as they stand."""
    lines, inside = [], False
    for line in text.splitlines():
        indented = line.startswith("  ") or (inside and not line.strip())
        if indented != inside:
            lines.append("")
        lines.append("    " + line if indented else line)
        inside = indented
    return "\n".join(lines)


def silent(module):
    """Public names without a text; a property or a method of a class may be said by its name and type."""
    names = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if not n.startswith("_")
                                                  and getattr(v, "__module__", None) == module.__name__]
    for name in names:
        value = getattr(module, name)
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
            yield f"{module.__name__}.{name}"


def main():
    output = pathlib.Path(sys.argv[1])
    warnings.simplefilter("error", UserWarning)  # pdoc's
    pdoc.docstrings.convert = to_markdown
    with tempfile.TemporaryDirectory() as here:
        copied = pathlib.Path(here) / "switchyard"
        copied.mkdir()
        missing = [m for m, package in NEEDS.items() if not is_installed(package)]
        copy_with_stubs(copied, missing)
        sys.path.insert(0, here)
        names = ["switchyard", *(m for m in NEEDS if m not in missing)]
        modules = [importlib.import_module(name) for name in names]
        if without := [name for module in modules for name in silent(module)]:
            sys.exit(f"without a text: {', '.join(without)}")
        modules[0].__all__ = [n for n in modules[0].__all__ if n != "__version__"]
        pdoc.render.configure(docformat="markdown", show_source=False, search=True)
        pdoc.pdoc(*names, "!switchyard._.*", output_directory=output)
    pages = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.html"))
    for page in pages:
        text = (output / page).read_text()
        if re.search(re.escape(here), text):
            sys.exit(f"{page} names a folder of this machine")
    print(f"{output}: {', '.join(pages)}" + (f"; without {', '.join(missing)}" if missing else ""))


if __name__ == "__main__":
    main()
