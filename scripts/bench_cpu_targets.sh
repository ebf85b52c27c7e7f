#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# The grouped GEMM with every instruction set of this machine from AVX2 or NEON up, each beside sgemm in the same
# run; one results file: processor, date, commit, one entry per instruction set and number of threads.
#
#   scripts/bench_cpu_targets.sh RESULTS.json [THREADS...]     default: all of the machine's
#
# SECONDS_EACH=2 are spent on each time. BUILD=folder (default build/cpu); CMAKE_FLAGS is given to cmake when that
# folder is new. COMMIT names what is built where there is no git history. TARGETS="AVX2 AVX3" takes fewer.
set -euo pipefail
results=$(realpath "${1:?where to write the results}")
shift
cd "$(dirname "$0")/.."
threads=("$@")
[ ${#threads[@]} -gt 0 ] || threads=("$(nproc)")
build=${BUILD:-build/cpu}

# shellcheck disable=SC2086  # the flags are meant to be split
[ -e "$build/CMakeCache.txt" ] || cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DSWITCHYARD_BENCH=ON ${CMAKE_FLAGS:-}
cmake --build "$build" --target bench_grouped_gemm -j "$(nproc)"
bench=$build/bench/bench_grouped_gemm

runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
for count in "${threads[@]}"; do
  for target in ${TARGETS:-$("$bench" --list-targets | grep -E '^(AVX|NEON)')}; do
    # OpenBLAS with the same registers: AVX2 beside its kernels for AVX2.
    [ "$target" != AVX2 ] || export OPENBLAS_CORETYPE=${OPENBLAS_AVX2_CORE:-Haswell}
    "$bench" --target "$target" --threads "$count" --seconds "${SECONDS_EACH:-2}" --json "$runs/$target-$count.json"
    unset OPENBLAS_CORETYPE
  done
done

commit=$(git describe --always --dirty 2>/dev/null || true)
python3 - "$results" "${COMMIT:-$commit}" "$runs"/*.json <<'PYTHON'
import datetime, json, pathlib, sys

results, commit, *runs = sys.argv[1:]
cpu = dict(line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line)
cpu = {name.strip(): value.strip() for name, value in cpu.items()}
pathlib.Path(results).write_text(json.dumps({
    "date": datetime.date.today().isoformat(),
    "commit": commit,
    "machine": cpu.get("model name", "unknown processor"),
    "isa": sorted(flag for flag in cpu.get("flags", "").split() if flag.startswith(("avx", "fma", "amx"))),
    "command": "scripts/bench_cpu_targets.sh",
    "runs": [json.loads(pathlib.Path(run).read_text()) for run in runs],
}, indent=1) + "\n")
PYTHON
