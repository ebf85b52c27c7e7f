#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Installs a build into an empty folder and builds the embedding example against it, once with CMake and
# once with pkg-config, as a consumer would.
#
#   install_test.sh SOURCE BUILD SCRATCH [MPIRUN]
set -euo pipefail
source=$1 build=$2 scratch=$3 mpirun=${4:-}
rm -rf "$scratch" && mkdir -p "$scratch"
cmake --install "$build" --prefix "$scratch/staged" >/dev/null
mv "$scratch/staged" "$scratch/prefix"  # what is installed finds its parts by its own place

echo "-- by CMake"
cmake -S "$source/examples/embed" -B "$scratch/embed" -DCMAKE_PREFIX_PATH="$scratch/prefix" ${CONSUMER_FLAGS:+-DCMAKE_CXX_FLAGS="$CONSUMER_FLAGS"} >/dev/null
cmake --build "$scratch/embed" >/dev/null
"$scratch/embed/embed"
"$scratch/embed/model"
"$scratch/embed/engine"
"$scratch/embed/linear_attention"
"$scratch/embed/device"
"$scratch/embed/ranks" threads
RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29511 "$scratch/embed/ranks" processes
if [ -n "$mpirun" ]; then
  ASAN_OPTIONS=detect_leaks=0 "$mpirun" --allow-run-as-root --oversubscribe -n 2 "$scratch/embed/ranks" mpi
fi

# What a machine does not have, by the name that CMake would find it under.
without() {
  echo --no-warn-unused-cli
  for name in "$@"; do echo "-DCMAKE_DISABLE_FIND_PACKAGE_$name=ON"; done
}

echo "-- configured without GoogleTest, as the guide says"
# shellcheck disable=SC2046  # one argument a line
cmake -S "$source" -B "$scratch/plain" -DSWITCHYARD_CUDA=OFF $(without GTest) >/dev/null

# tests/install/fresh_machine.sh also builds these.
echo "-- the library alone is configured without fmt, CLI11, GoogleTest and MPI"
# shellcheck disable=SC2046
cmake -S "$source" -B "$scratch/alone" -DSWITCHYARD_CUDA=OFF -DSWITCHYARD_CLI=OFF $(without fmt CLI11 GTest MPI) >/dev/null

echo "-- inside another project, whose settings stay"
parent=$source/tests/install/subproject
cmake -S "$parent" -B "$scratch/parent" -DSWITCHYARD="$source" >/dev/null
# shellcheck disable=SC2046
cmake -S "$parent" -B "$scratch/parent_debug" -DSWITCHYARD="$source" -DSWITCHYARD_CUDA=OFF -DCMAKE_BUILD_TYPE=Debug \
  -DBUILD_SHARED_LIBS=ON $(without fmt CLI11 GTest MPI) >/dev/null

echo "-- by pkg-config"
pc=$(dirname "$(find "$scratch/prefix" -name switchyard.pc)")
# shellcheck disable=SC2046,SC2086  # flags are meant to be split
g++ -std=c++20 ${CONSUMER_FLAGS:-} "$source/examples/embed/embed.cc" -o "$scratch/embed_pc" $(PKG_CONFIG_PATH="$pc" pkg-config --cflags --libs --static switchyard)
"$scratch/embed_pc"

echo "-- in C, by CMake and by pkg-config"
cmake -S "$source/examples/c" -B "$scratch/c" -DCMAKE_PREFIX_PATH="$scratch/prefix" ${CONSUMER_FLAGS:+-DCMAKE_C_FLAGS="$CONSUMER_FLAGS"} >/dev/null
cmake --build "$scratch/c" >/dev/null
# shellcheck disable=SC2046,SC2086
gcc -std=c99 ${CONSUMER_FLAGS:-} "$source/examples/c/layer.c" -o "$scratch/c_pc" $(PKG_CONFIG_PATH="$pc" pkg-config --cflags --libs switchyard-c)
libraries=$(PKG_CONFIG_PATH="$pc" pkg-config --variable=libdir switchyard-c)
head -c 1536 /dev/zero >"$scratch/rows"  # 4 tokens of H = 192
for program in "$scratch/c/layer" "$scratch/c_pc"; do
  LD_LIBRARY_PATH=$libraries "$program" "$source/data/tiny-code-moe" 1 "$scratch/rows" "$scratch/output"
  cmp "$scratch/rows" "$scratch/output"  # no bias: zeros stay zeros
done

echo "-- the installed program"
"$scratch/prefix/bin/switchyard" --version
