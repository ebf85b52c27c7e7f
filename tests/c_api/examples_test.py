#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""An example in another language gives the bits of `switchyard run` for a layer of data/tiny-code-moe.

    examples_test.py LANGUAGE SOURCE LIBRARY PROGRAM [C compiler flags of a sanitized library ...]

LANGUAGE is c, rust or python. Exit code 77: its compiler is not installed.
"""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

SOURCE, LIBRARY, PROGRAM = (pathlib.Path(argument).resolve() for argument in sys.argv[2:5])
SANITIZE = sys.argv[5:]
MODEL, LAYER = SOURCE / "data" / "tiny-code-moe", "1"
WARNINGS = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
ENVIRONMENT = {**os.environ, "LD_LIBRARY_PATH": str(LIBRARY.parent), "SWITCHYARD_C": str(LIBRARY)}


def require(good, message):
    if not good:
        sys.exit(message)


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=ENVIRONMENT)
    return result.returncode, result.stdout + result.stderr


def need(*command):
    code, text = run(*command)
    require(code == 0, f"{command}: exit code {code}\n{text}")


def tensor(path, name):
    """Its bytes in a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    begin, end = json.loads(data[8 : 8 + size])[name]["data_offsets"]
    return data[8 + size + begin : 8 + size + end]


def expect_bits(here, *command):
    """Of `command FOLDER LAYER INPUT OUTPUT`; and what the library refuses is said in its words."""
    io = MODEL / "moe_io.safetensors"
    need(PROGRAM, "run", "--model", MODEL, "--layer", LAYER, "--input", io, "--output", here / "cpp.safetensors")
    rows, output = here / "rows.bf16", here / "output.bf16"
    rows.write_bytes(tensor(io, f"model.layers.{LAYER}.mlp.input"))
    need(*command, MODEL, LAYER, rows, output)
    require(output.read_bytes() == tensor(here / "cpp.safetensors", "output"), f"{command}: other bits")
    code, text = run(*command, MODEL, "99", rows, output)
    require(code != 0 and "layer=99" in text, f"{command}: of a layer that is none: {code}, {text}")


def c(here):
    compilers = ["gcc"] if SANITIZE else [name for name in ("gcc", "clang", "tcc") if shutil.which(name)]
    for compiler in compilers:
        program = here / f"layer_{compiler}"
        need(compiler, *WARNINGS, *SANITIZE, SOURCE / "examples/c/layer.c", "-I", SOURCE / "include",
             "-L", LIBRARY.parent, "-lswitchyard_c", "-o", program)
        expect_bits(here, program)


def rust(here):
    if shutil.which("rustc") is None:
        print("skipped: no rustc")
        sys.exit(77)
    need("rustc", "--edition", "2021", "-D", "warnings", SOURCE / "examples/rust/layer.rs",
         "-L", f"native={LIBRARY.parent}", "-l", "switchyard_c", "-o", here / "layer_rust")
    expect_bits(here, here / "layer_rust")


def python(here):
    expect_bits(here, sys.executable, SOURCE / "examples/python/ctypes_layer.py")
    expect_layout()


def expect_layout():
    """The structs of the example have every field where C has it."""
    os.environ["SWITCHYARD_C"] = str(LIBRARY)
    sys.path.insert(0, str(SOURCE / "examples/python"))
    import ctypes
    import ctypes_layer as example
    lines = (SOURCE / "src/c_api/layout.cc").read_text()
    for name, kind in (("swy_tensor", example.Tensor), ("swy_config", example.Config),
                       ("swy_options", example.Options), ("swy_forward_args", example.ForwardArgs)):
        offsets = [(field, getattr(kind, field).offset) for field, *_ in kind._fields_]
        wanted = [(field, int(at)) for field, at in re.findall(rf"AT\({name}, (\w+), (\d+)\)", lines)]
        require(offsets == wanted, f"{name}: {offsets}, need {wanted}")
        require(f"SIZE({name}, {ctypes.sizeof(kind)});" in lines, f"{name}: size {ctypes.sizeof(kind)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        {"c": c, "rust": rust, "python": python}[sys.argv[1]](pathlib.Path(folder))
