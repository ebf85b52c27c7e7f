#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Fuzzes every parser of files that users bring, and a rank whose peer sends anything, for FUZZ_SECONDS each (45), one on
# each core, starting from the corpus in tests/fuzz. A finding ends its target and lies in build/fuzz/findings; what widens
# the corpus lies in build/fuzz/corpus.
#
#   scripts/fuzz.sh             all targets
#   scripts/fuzz.sh header      one of them
#   scripts/fuzz.sh --merge     adds what widened the corpus to tests/fuzz/corpus
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-45}
targets=(header index config layer ranks)
# A header or config of a few kB may cost no more than this.
limits=(-malloc_limit_mb=64 -rss_limit_mb=1024 -timeout=20 -max_len=8192)

fuzz() {  # target, further arguments; without noise
  mkdir -p build/fuzz/corpus/"$1" build/fuzz/findings
  build/fuzz/tests/fuzz_"$1" "${limits[@]}" "${@:2}" 2>&1 | sed -n "/$pattern/s/^/$1: /p"
}

case ${1:-} in
  "") printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -n 1 "$0" ;;
  --merge)
    pattern='MERGE-OUTER'
    for target in "${targets[@]}"; do
      fuzz "$target" -merge=1 tests/fuzz/corpus/"$target" build/fuzz/corpus/"$target"
    done ;;
  *)
    pattern='ERROR\|runtime error\|SUMMARY\|Test unit\|Done\|stat::number_of_executed\|stat::peak'
    fuzz "$1" -dict="tests/fuzz/$1.dict" -max_total_time="$seconds" -print_final_stats=1 \
      -artifact_prefix="build/fuzz/findings/$1-" build/fuzz/corpus/"$1" tests/fuzz/corpus/"$1" ;;
esac
