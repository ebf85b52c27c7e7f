#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# clang-tidy on the sources that changed since a commit (all of them where there is no such commit).
#
#   scripts/tidy_changed.sh HEAD~1
set -euo pipefail
base=${1:-HEAD~1}
# Files of the CUDA backend are known only to a build that has it.
preset=cpu
! command -v nvcc >/dev/null || preset=cuda
cmake --preset "$preset" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DSWITCHYARD_TESTS=ON >/dev/null
if git rev-parse -q --verify "$base^{commit}" >/dev/null; then
  files=$(git diff --name-only --diff-filter=d "$base" -- 'src/*.cc' 'cli/*.cc')
else
  files=$(git ls-files 'src/*.cc' 'cli/*.cc')
fi
grep -q 'comm/nccl_link\.cc' "build/$preset/compile_commands.json" ||
  files=$(printf '%s\n' $files | grep -vE '^src/comm/nccl_' || true)
[ "$preset" = cuda ] || files=$(printf '%s\n' $files | grep -vE '^src/(cuda/|device/cuda_)' || true)
[ -n "$files" ] || { echo "tidy: nothing changed"; exit 0; }
# Files that Highway includes once per instruction set read as several programs; the compiler warns there.
files=$(printf '%s\n' $files | grep -v '_fast\.cc$' || true)
printf '%s\n' $files | xargs -r -P "$(nproc)" -n 4 clang-tidy -p "build/$preset" --quiet --warnings-as-errors='*' 2>/dev/null
echo "tidy: good ($(printf '%s\n' $files | wc -l) files)"
