#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# The shared library exports what scripts/symbols.txt lists, and beside it only tables of public types and templates,
# which each compiler writes where it likes. After an addition to the public headers:
#
#   tests/install/symbols_test.sh build/cpu/tests/libswitchyard_shared.so >scripts/symbols.txt
#
#   symbols_test.sh LIBRARY [SYMBOLS]
set -euo pipefail
exported() {  # kinds of nm, of the library: names without their version
  nm -DC --defined-only "$1" | sed -nE "s/^[0-9a-f]+ [$2] (.*[^@])@@?SWITCHYARD_[0-9.]+$/\1/p" | LC_ALL=C sort -u
}

functions() { exported "$1" TDBR | grep -vE '^(typeinfo|vtable) ' || true; }
if [ $# = 1 ]; then
  functions "$1"
  exit
fi
diff "$2" <(functions "$1") || { echo "symbols: < is missing, > is not in $2"; exit 1; }
weak=$(exported "$1" VWu | grep -vE '^(typeinfo (name )?for|vtable for) switchyard::[A-Za-z]+$' |
  grep -vE '^switchyard::(Activation(List|Rule)<.*>|[A-Z][A-Za-z]+)::k[A-Z][A-Za-z]+$' || true)
[ -z "$weak" ] || { echo "symbols: neither a table nor a constant of a public type:"; echo "$weak"; exit 1; }
! nm -D --defined-only "$1" | grep -vE '@@?SWITCHYARD_|SWITCHYARD_[0-9.]+$' || { echo "symbols: without the version"; exit 1; }
echo "symbols: good ($(wc -l <"$2"))"
