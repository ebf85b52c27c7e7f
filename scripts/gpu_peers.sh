#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Switchyard beside other implementations (docs/guide/peers.md), on a machine with a GPU and without a network.
#
#   scripts/gpu_peers.sh FOLDER [argument of switchyard.bench ...]
#
# FOLDER has wheels for that machine's Python, made elsewhere; torch, transformers and Triton are the machine's:
#
#   pip wheel --no-deps -w built . && auditwheel repair -w FOLDER built/switchyard-*.whl    # with nvcc on the PATH
#   pip download --no-deps --only-binary=:all: --python-version 3.12 -d FOLDER nanobind-backend apache-tvm-ffi    # and peers
#   unzip -q vllm-*.whl 'vllm/model_executor/layers/fused_moe/*' 'vllm-*.dist-info/*' -d FOLDER/sources    # its Triton kernel alone
#   scripts/compile_quack.py FOLDER/sources    # quack's kernels without its compiler
#
# PYTHON   the Python that has torch (python3)
set -euo pipefail
folder=$(realpath "${1:?say the folder of the wheels}")
shift
python=${PYTHON:-python3}
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT

shopt -s nullglob
wheels=("$folder"/*.whl)
[ ${#wheels[@]} -eq 0 ] ||
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$packages" "${wheels[@]}"
PYTHONPATH=$packages:$folder/sources${PYTHONPATH:+:$PYTHONPATH} "$python" -m switchyard.bench --peers "$@"
