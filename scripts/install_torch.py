#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Installs torch for a CPU into the environment of this interpreter, with as little as it starts with.

The registry's torch is built with CUDA and asks for 5 GB of its libraries. A CPU calls none of them, but the loader
wants those that torch is linked with: where the machine has a CUDA toolkit, these are four packages.

    install_torch.py torch>=2.11
"""
import importlib.metadata
import re
import subprocess
import sys

# No part of a CUDA toolkit, or newer in torch than there.
BESIDE_TOOLKIT = ("nvidia-nccl", "nvidia-nvshmem", "nvidia-cusparselt")


def pip(*arguments):
    """Says nothing where it succeeds: pip calls it an error that packages are left out."""
    run = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments],
                         capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(run.stderr)


def starts():
    return subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode == 0


def requirements():
    """Of torch that is installed, as pip takes them: those of any platform, and those of CUDA."""
    said = [r for r in importlib.metadata.requires("torch") or () if "extra ==" not in r]
    of_cuda = [r for r in said if re.match(r"nvidia-|cuda-", r)]
    return [r for r in said if r not in of_cuda], of_cuda


def beside_toolkit(of_cuda):
    small = [r for r in of_cuda if r.startswith(BESIDE_TOOLKIT)]
    version = next((m[1] for r in of_cuda if (m := re.match(r"cuda-toolkit\[[^]]*\]==([\d.]+)", r))), None)
    return small + ([f"cuda-toolkit[cufile]=={version}"] if version else [])


def main():
    pip("--no-deps", sys.argv[1])
    plain, of_cuda = requirements()
    pip(*plain)
    for more in (beside_toolkit(of_cuda), of_cuda):
        if starts():
            break
        print(f"torch does not start yet, it gets {', '.join(r.partition(';')[0].strip() for r in more) or 'nothing'}")
        if more:
            pip(*more)
    if not starts():
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
    print(f"torch {importlib.metadata.version('torch')}")


if __name__ == "__main__":
    main()
