#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Fails when a tracked source is not formatted as .clang-format says; `make format` mends it.
set -euo pipefail
git ls-files '*.h' '*.c' '*.cc' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
echo "format: good"
