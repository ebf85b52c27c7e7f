#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzz targets as OSS-Fuzz wants them: compilers and flags are taken from CC, CXX, CFLAGS and CXXFLAGS, the
# engine from LIB_FUZZING_ENGINE, and targets, seeds and dictionaries go to OUT. As its build.sh:
#
#   scripts/oss_fuzz_build.sh
#
# Alone:
#
#   CC=clang CXX=clang++ CXXFLAGS='-O1 -fsanitize=fuzzer-no-link,address' LIB_FUZZING_ENGINE=-fsanitize=fuzzer \
#     OUT=/tmp/out scripts/oss_fuzz_build.sh
#
# Debian's packages that it needs: scripts/install_deps.sh build test, and zip.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CC:?name the C compiler}" "${CXX:?name the C++ compiler}" "${OUT:?name the folder of the results}"
: "${LIB_FUZZING_ENGINE:?name the fuzzing engine, such as -fsanitize=fuzzer}"
build=${WORK:-build}/oss-fuzz
targets=(header index config layer ranks)

# --as-needed: targets run on machines without the packages of this one. The flags come from the environment.
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=None -DSWITCHYARD_CUDA=OFF -DSWITCHYARD_MPI=OFF \
  -DSWITCHYARD_TESTS=ON -DSWITCHYARD_FUZZ=ON -DSWITCHYARD_FUZZING_ENGINE="$LIB_FUZZING_ENGINE" \
  -DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed >/dev/null
cmake --build "$build" --target "${targets[@]/#/fuzz_}"

mkdir -p "$OUT"
for target in "${targets[@]}"; do
  cp "$build/tests/fuzz_$target" "$OUT/"
  cp "tests/fuzz/$target.dict" "$OUT/fuzz_$target.dict"
  rm -f "$OUT/fuzz_${target}_seed_corpus.zip"
  (cd "tests/fuzz/corpus/$target" && zip -q "$OUT/fuzz_${target}_seed_corpus.zip" ./*)
  # A header or config of a few kB may cost no more than this.
  printf '[libfuzzer]\nmax_len = 8192\nmalloc_limit_mb = 64\ntimeout = 20\n' >"$OUT/fuzz_$target.options"
done
