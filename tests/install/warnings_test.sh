#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Public headers and examples compile without a warning for their users. 77: this machine does not have the compiler.
#
#   warnings_test.sh SOURCE BUILD SCRATCH g++|clang++|nvcc
set -euo pipefail
source=$1 build=$2 scratch=$3 compiler=$4
command -v "$compiler" >/dev/null || { echo "$compiler is not on the PATH"; exit 77; }
rm -rf "$scratch" && mkdir -p "$scratch"
includes=(-I "$source/include" -I "$build/include")
for header in "$source"/include/switchyard/*.h "$build"/include/switchyard/*.h; do
  echo "#include \"switchyard/$(basename "$header")\""
done >"$scratch/headers.cc"

for file in "$scratch/headers.cc" "$source"/examples/embed/*.cc; do
  if [ "$compiler" = nvcc ]; then
    # What nvcc hands to g++ has line directives that -Wpedantic takes for an extension: they are nvcc's, not ours.
    nvcc -x cu -std=c++20 -c -o "$scratch/object.o" -Xcompiler=-Wall,-Wextra,-Wpedantic,-Wconversion "${includes[@]}" "$file" 2>&1 |
      { grep -E ': (fatal )?(warning|error)( #[0-9]+-D)?:' || true; } | { grep -v 'style of line directive is a GCC extension' || true; } >"$scratch/said"
    [ -s "$scratch/object.o" ] && [ ! -s "$scratch/said" ] || { echo "$file:"; cat "$scratch/said"; exit 1; }
    rm "$scratch/object.o"
  else
    "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Werror "${includes[@]}" "$file"
  fi
done
echo "$compiler: no warning"
