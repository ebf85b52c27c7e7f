# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: the program of this package, and its answers as Python objects."""
import os
import sys
from typing import Any

from ._errors import Error

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "switchyard")


class WrongUsage(Error, ValueError):
    """An option or an input that the program refuses, in its words."""


class ProgramFailed(Error, RuntimeError):
    """The program gave no answer."""


def _words(options: dict) -> "list[str]":
    words = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, (list, tuple)):
            words.append(",".join(map(str, value)))
        elif value is not True:
            words.append(os.fspath(value) if isinstance(value, os.PathLike) else str(value))
    return words


def _answer(command: str, options: dict) -> Any:
    import json  # here: a program that only runs layers does not wait for them
    import subprocess

    run = subprocess.run([PROGRAM, command, "--json", *_words(options)], capture_output=True, text=True, check=False,
                         stdin=subprocess.DEVNULL)
    if run.stdout.startswith("{"):
        return json.loads(run.stdout)
    text = run.stderr.strip().removeprefix("switchyard: ") or f"{command}: exit code {run.returncode}, no answer."
    raise (WrongUsage if run.returncode == 2 else ProgramFailed)(text)


def explain(**options: Any) -> "dict[str, Any]":
    """Which strategy a layer gets, and why: `switchyard explain --json`.

    Options are the program's, with _ for -: preset="olmoe-1b-7b", ranks=4, tokens=32, device="cuda", all=True.
    Raises WrongUsage with the program's text.
    """
    return _answer("explain", options)


def check(**options: Any) -> "dict[str, Any]":
    """This build beside float64: `switchyard check --json`. `failed` counts what differs. Options as of explain."""
    return _answer("check", options)


def plan(**options: Any) -> "dict[str, Any]":
    """What a layer moves and takes over many ranks: `switchyard plan --json`. Options as of explain.

    With placement="loads.json": which rank holds which experts.
    """
    return _answer("plan", options)


def bench(**options: Any) -> "dict[str, Any]":
    """Times of every operation beside its floor, us: `switchyard bench --json`. Options as of explain."""
    return _answer("bench", options)


def main() -> None:
    """The program itself, in this process."""
    os.execv(PROGRAM, [PROGRAM, *sys.argv[1:]])
