#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# An nvcc that cannot be used, played by a script: a build for CPUs that says why, or an error that names the version.
#
#   nvcc_test.sh SOURCE SCRATCH
set -euo pipefail
source=$1 scratch=$2
rm -rf "$scratch" && mkdir -p "$scratch/bin"

nvcc_says() {  # release: it compiles nothing
  printf '#!/bin/sh\n[ "$1" = --version ] || exit 1\necho "Cuda compilation tools, release %s, V%s.1"\n' "$1" "$1" >"$scratch/bin/nvcc"
  chmod +x "$scratch/bin/nvcc"
}

configure() {  # AUTO or ON, then what must be said; one line, however CMake breaks it
  local wanted=$1 text=$2 code=0
  rm -rf "$scratch/build"
  env -u CUDACXX PATH="$scratch/bin:$PATH" cmake -S "$source" -B "$scratch/build" -DSWITCHYARD_CUDA="$wanted" \
    -DSWITCHYARD_CLI=OFF -DSWITCHYARD_C_API=OFF -DSWITCHYARD_MPI=OFF >"$scratch/log" 2>&1 || code=$?
  tr -s ' \n' '  ' <"$scratch/log" | grep -qF "$text" || { cat "$scratch/log"; echo "nvcc_test: not said: $text"; exit 1; }
  [ "$code" = "$([ "$wanted" = AUTO ] && echo 0 || echo 1)" ] || { echo "nvcc_test: $wanted ended with $code"; exit 1; }
}

newer="Put 12.8 or newer on the PATH, or name it by -DCMAKE_CUDA_COMPILER"
nvcc_says 11.8
configure AUTO "Switchyard for CPUs only: nvcc 11.8 ($scratch/bin/nvcc) is too old. $newer."
configure ON "SWITCHYARD_CUDA=ON: nvcc 11.8 ($scratch/bin/nvcc) is too old. $newer, or leave it AUTO."
nvcc_says 13.0
configure AUTO "Switchyard for CPUs only: nvcc 13.0 ($scratch/bin/nvcc) does not compile with this host compiler. $newer."
configure ON "SWITCHYARD_CUDA=ON: nvcc 13.0 ($scratch/bin/nvcc) does not compile with this host compiler. $newer, or leave it AUTO."
echo "nvcc: good"
