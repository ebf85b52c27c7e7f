# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The package itself: what an import loads, stubs, errors, the program."""
import inspect
import os
import re
import subprocess
import sys

import cases
import pytest
import switchyard
from cases import SOURCE

PACKAGE = SOURCE / "python" / "switchyard"


def test_an_import_loads_the_standard_library_and_the_backend_of_nanobind_alone():
    code = ("import sys; before = set(sys.modules); import switchyard;"
            "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))")
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) - set(sys.stdlib_module_names) == {"switchyard", "nanobind_backend"}
    # What takes long to load is loaded by who uses it.
    assert not {"subprocess", "json", "asyncio", "unittest"} & set(loaded)


def test_stubs_are_those_of_the_module(tmp_path):
    made = tmp_path / "_native.pyi"
    subprocess.run([sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "switchyard._native", "-o", made], check=True)
    licence, committed = re.match(r"((?:# SPDX[^\n]*\n)+)(.*)", (PACKAGE / "_native.pyi").read_text(), re.S).groups()
    assert made.read_text() == committed, (
        "stale: python -m nanobind.stubgen -m switchyard._native -o python/switchyard/_native.pyi; "
        f"then begin it with\n{licence}")


def test_a_type_checker_reads_the_package_and_a_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text((SOURCE / "examples/python/quick_start.py").read_text()
                       + "\nwrong: int = layer.strategy.name\n")
    run = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--no-error-summary",
                          program],
                         capture_output=True, text=True, check=False,
                         env={**os.environ, "MYPYPATH": str(PACKAGE.parent)})
    assert [line.split(": ", 1)[1] for line in run.stdout.splitlines()] == [
        'error: Incompatible types in assignment (expression has type "str", variable has type "int")  [assignment]']


def test_every_public_name_says_what_it_is():
    silent = [name for name in switchyard.__all__ if name != "__version__" and not inspect.getdoc(getattr(switchyard, name))]
    assert silent == []


@pytest.mark.parametrize("name, base", [
    ("ShapeMismatch", ValueError), ("Misaligned", ValueError), ("Unsupported", ValueError), ("BadFile", OSError),
    ("Cuda", RuntimeError), ("Transport", RuntimeError), ("BadRouting", RuntimeError), ("BadState", RuntimeError),
])
def test_errors_are_those_that_python_has_for_them(name, base):
    error = getattr(switchyard, name)
    assert issubclass(error, base) and issubclass(error, switchyard.Error)


def test_codes_have_the_classes_of_error_h():
    from switchyard._errors import BY_CODE

    text = (SOURCE / "include/switchyard/error.h").read_text()
    for code, error in BY_CODE.items():
        assert f"{error.__name__} = {code}," in text
    assert f"= {max(BY_CODE) + 1}," not in text


def test_the_version_is_that_of_the_build():
    assert f"project(switchyard VERSION {switchyard.__version__} " in (SOURCE / "CMakeLists.txt").read_text()


def test_the_program_answers_in_objects():
    explained = switchyard.explain(preset="olmoe-1b-7b", ranks=4, tokens=32)
    assert explained["chosen"] == "normal+masked" or explained["chosen"].startswith("normal+")
    assert switchyard.plan(preset="olmoe-1b-7b", ranks=8)["plans"][0]
    timed = switchyard.bench(model=cases.MODEL, layer=1, tokens=[1, 4], repeat=1)
    assert timed


def test_the_program_refuses_in_its_words():
    with pytest.raises(switchyard.WrongUsage, match="^preset: name=none, known are") as raised:
        switchyard.explain(preset="none")
    assert isinstance(raised.value, ValueError)
    with pytest.raises(switchyard.WrongUsage, match="--rank"):
        switchyard.explain(preset="olmoe-1b-7b", rank=4)
    with pytest.raises(switchyard.WrongUsage, match="--tokens"):  # its answer is that of the test cli.check
        switchyard.check(tokens=4)
