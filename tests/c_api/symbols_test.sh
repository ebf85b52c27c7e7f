#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# The library exports what scripts/c_symbols.txt lists, and nothing else. After an addition:
#
#   nm -D --defined-only build/cpu/src/c_api/libswitchyard_c.so | awk '{print $3}' | LC_ALL=C sort >scripts/c_symbols.txt
#
#   symbols_test.sh LIBRARY SYMBOLS
set -euo pipefail
nm -D --defined-only "$1" | awk '{print $3}' | LC_ALL=C sort | diff "$2" -
echo "symbols: good ($(wc -l <"$2"))"
