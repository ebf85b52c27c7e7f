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


def fields_of(header, struct):
    """Names and defaults, as they are written, of the fields of a C++ struct."""
    body = re.search(rf"^struct {struct}\b[^{{;]*\{{\n(.*?)^\}};", (SOURCE / "include/switchyard" / header).read_text(), re.S | re.M)[1]
    body = re.sub(r"//[^\n]*", "", body)
    statements = [" ".join(s.split()) for s in body.split(";")]
    declared = [part for s in statements if s and not re.match("bool operator|static ", s) for part in s.split(", ")]
    found = (re.search(r"(\w+)(?:\{(\w*)\})?(?: = (.*))?$", part) for part in declared)
    return {field[1]: field[2] or field[3] for field in found}


def python_default(text):
    """Of a default in C++; None for what is no plain number, flag or text."""
    known = {"true": True, "false": False, "OutOfRangeIds::Error": switchyard.OutOfRangeIds.Error, "DeviceKind::Cpu": "cpu", "DType::Bf16": "bf16",
             "int64_t{8} << 30": 8 << 30}
    if text in known:
        return known[text]
    return text.strip('"') if text and text.startswith('"') else int(text) if text and re.fullmatch(r"-?\d+", text) else None


ONLY_IN_PYTHON = {"communicator"}  # an argument of its own in C++


def test_options_are_those_of_cpp_with_their_defaults():
    fields = {**fields_of("strategy.h", "PlanOptions"), **fields_of("layer.h", "LayerOptions")}
    bound = {name for name, value in vars(switchyard.LayerOptions).items() if isinstance(value, property)} - ONLY_IN_PYTHON
    assert bound == set(fields)
    options, compared = switchyard.LayerOptions(), set()
    for name in bound:
        if (default := python_default(fields[name])) is not None:
            assert getattr(options, name) == default, name
            compared.add(name)
    assert bound - compared == {"backend", "shared_workspace", "workspace", "placement", "gemm1", "gemm2"}
    assert options.gemm1 == options.gemm2 == ""
    assert options.backend is None and options.shared_workspace is None and options.workspace is None and options.placement == []


OF_OBJECTS = {"backend", "shared_workspace", "workspace", "communicator"}  # other tests pass these


def test_every_option_may_be_set():
    values = {"strategy": "local+masked", "device": "cuda", "out_of_range_ids": switchyard.OutOfRangeIds.NoExpert, "placement": [1, 0],
              "experts": "f8_e4m3", "gemm1": "64x128x64, 7 stages, cluster of 1", "gemm2": "any"}
    for name in {n for n, v in vars(switchyard.LayerOptions).items() if isinstance(v, property)} - OF_OBJECTS:
        default = getattr(switchyard.LayerOptions(), name)
        value = values.get(name, not default if isinstance(default, bool) else default if isinstance(default, str) else None)
        value = default + 1 if value is None else value
        assert value != default and getattr(switchyard.LayerOptions(**{name: value}), name) == value, name


@pytest.mark.parametrize("header, struct, bound", [
    ("block_scales.h", "ScaleBlock", "ScaleBlock"), ("weights.h", "ExpertFormat", "ExpertFormat"), ("placement.h", "Placement", "Placement"),
])
def test_fields_of_structs_are_those_of_cpp(header, struct, bound):
    names = {n for n, v in vars(getattr(switchyard, bound)).items() if isinstance(v, property)}
    assert names == set(fields_of(header, struct))


def test_what_a_plan_is_asked_for_is_what_cpp_asks():
    arguments = re.search(r"def plan_placement\((.*?)\) ->", (PACKAGE / "_native.pyi").read_text())[1]
    given = dict(re.findall(r"(num_\w+): int = (\d+)", arguments))
    fields = fields_of("placement.h", "PlacementRequest")
    of_loads = {"loads", "num_layers", "num_experts"}  # whose shape says them
    assert "current: Sequence[Sequence[int]] | None = None" in arguments and fields.pop("current") is None
    assert given == {name: default for name, default in fields.items() if name not in of_loads}


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
