#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Fuzzes every parser of files that users bring, and a rank whose peer sends anything, for FUZZ_SECONDS each (45),
# starting from the corpus in tests/fuzz. A finding ends it and lies in build/fuzz/findings; what widens the corpus lies
# in build/fuzz/corpus. "scripts/fuzz.sh --merge" adds the useful part of that to tests/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-45}
# A header or config of a few kB may cost no more than this.
limits=(-malloc_limit_mb=64 -rss_limit_mb=1024 -timeout=20 -max_len=8192)

for target in header index config layer ranks; do
  fuzzer=build/fuzz/tests/fuzz_$target seeds=tests/fuzz/corpus/$target grown=build/fuzz/corpus/$target
  mkdir -p "$grown" build/fuzz/findings
  if [[ ${1:-} == --merge ]]; then
    "$fuzzer" "${limits[@]}" -merge=1 "$seeds" "$grown" 2>&1 | tail -1
  else
    echo "-- $target, $seconds s"
    "$fuzzer" "${limits[@]}" -dict="tests/fuzz/$target.dict" -max_total_time="$seconds" -print_final_stats=1 \
      -artifact_prefix="build/fuzz/findings/$target-" "$grown" "$seeds" 2>&1 |
      grep -E 'ERROR|runtime error|SUMMARY|Test unit|Done|stat::(number_of_executed|peak)'
  fi
done
