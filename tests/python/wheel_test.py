#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel of this source on every Python from 3.10 on that is found: the quick start, without numpy or torch.

    wheel_test.py SOURCE

SWITCHYARD_PYTHONS names more interpreters, separated by colons.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(sys.argv[1]).resolve()
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
ABI3 = re.compile(r"switchyard-[0-9.]+-cp310-abi3-linux_\w+\.whl")
MOST_BYTES = 100 << 20  # of a file in the registry


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, text=True, **options)


def interpreters():
    """One for each version; a name on the PATH may be a shim of a version that is not installed."""
    named = [p for p in os.environ.get("SWITCHYARD_PYTHONS", "").split(":") if p]
    found = {}
    for path in [*named, sys.executable, *(shutil.which(f"python{v}") for v in VERSIONS)]:
        if path is None:
            continue
        asked = subprocess.run([path, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
                               capture_output=True, text=True, check=False)
        if asked.returncode == 0 and asked.stdout.strip() in VERSIONS:
            found.setdefault(asked.stdout.strip(), path)
    return found


def build(folder):
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
        "-w", folder, "--config-settings=cmake.define.SWITCHYARD_CUDA=OFF", SOURCE,
        # CMake's compiler, not the one that Python was built with: then its objects are those of the cache.
        env={"CC": "cc", "CXX": "c++", **os.environ, "CCACHE_BASEDIR": str(SOURCE), "CCACHE_NOHASHDIR": "1"})
    (wheel,) = folder.glob("*.whl")
    assert ABI3.fullmatch(wheel.name), wheel.name
    assert wheel.stat().st_size < MOST_BYTES, wheel.stat().st_size
    return wheel


def check(version, python, wheel, folder):
    """In an environment that has the wheel and what it depends on."""
    environment = folder / version
    run(python, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    quick_start = run(environment / "bin" / "python", SOURCE / "examples" / "python" / "quick_start.py", cwd=SOURCE,
                      capture_output=True).stdout
    assert 0 < float(quick_start) <= 4e-3, quick_start
    said = run(environment / "bin" / "switchyard", "explain", "--preset", "olmoe-1b-7b", cwd=folder,
               capture_output=True).stdout
    assert "local+contiguous" in said, said
    print(f"python {version}: error {float(quick_start):.3e}")


def main():
    found = interpreters()
    assert found
    with tempfile.TemporaryDirectory() as here:
        folder = pathlib.Path(here)
        wheel = build(folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        for version, python in found.items():
            check(version, python, wheel, folder)
    print(f"not found: {', '.join(v for v in VERSIONS if v not in found) or 'none'}")


if __name__ == "__main__":
    main()
